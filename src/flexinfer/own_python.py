"""Python of ours in a process of its own: it imports what this one does, whatever surrounds it."""

from __future__ import annotations

import json
import os
import sys

# The working folder may have a file of any name; from the first import on it is not looked at.
_BEGIN = "import sys; del sys.path[0]; import json; sys.path[:] = json.loads(sys.argv.pop(1)); "
_MODULE = "import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


def own_python(code: str, *arguments: str) -> list[str]:
    """The command that runs `code` with this process's import path and these arguments.

    Variables such as PYTHONIOENCODING or PYTHONINSPECT are for the program that somebody started,
    not for what it says to its children.
    """
    # Without PYTHONHOME this Python might not find its library.
    alone = [] if "PYTHONHOME" in os.environ else ["-E"]
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    return [sys.executable, *alone, "-c", _BEGIN + code, path, *arguments]


def own_module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module as ``python -m`` does, as `own_python`."""
    return own_python(_MODULE.format(name), *arguments)
