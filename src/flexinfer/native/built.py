"""Libraries that are compiled with this package: opened, if they are from the installed version."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from flexinfer.errors import UnsupportedError


def open_built(path: Path, what: str, source: str, needs: Sequence[Path] = ()) -> ctypes.CDLL:
    """Open the compiled library at `path`.

    Args:
        what: of llama.cpp it is.
        source: name of its function that tells what it was built from.
        needs: libraries that it finds by being loaded before it.

    Raises:
        UnsupportedError: it was not built, or from another version than is installed.
    """
    if not path.is_file():
        raise UnsupportedError(
            f"llama.cpp's {what} was not built with this installation; run "
            "`flexinfer serve --build`, which takes some minutes and a C++ compiler"
        )
    for need in needs:
        ctypes.CDLL(str(need))
    native = ctypes.CDLL(str(path))
    tell = getattr(native, source)
    tell.restype = ctypes.c_char_p
    built = tell().decode()
    installed = f"llama-cpp-python=={version('llama-cpp-python')}"
    if built != installed:
        raise UnsupportedError(
            f"the {what} was built from {built} but {installed} is installed; run "
            "`flexinfer serve --build`"
        )
    return native
