"""Libraries that are compiled with this package: opened, if they are from the installed version."""

from __future__ import annotations

import ctypes
import runpy
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from flexinfer.errors import UnsupportedError

_PACKAGE = Path(__file__).parents[1]
# In a checkout, and where a wheel puts it.
_SOURCES = (_PACKAGE.parents[1] / "server-build", _PACKAGE / "serve" / "server-build")


def sources() -> Path | None:
    """The folder that they are built from, where this installation has it."""
    return next((place for place in _SOURCES if (place / "build.py").is_file()), None)


def open_built(path: Path, what: str, source: str, needs: Sequence[Path] = ()) -> ctypes.CDLL:
    """Open the compiled library at `path`, if it is from the sources and the binding that are here.

    Another one would call what it does not know: its end would be that of the process.

    Args:
        what: of llama.cpp it is.
        source: name of its function that tells what it was built from: a version and a digest.
        needs: libraries that it finds by being loaded before it.

    Raises:
        UnsupportedError: it was not built, or from others than are installed.
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
    built, _, digest = tell().decode().partition(" ")
    installed = f"llama-cpp-python=={version('llama-cpp-python')}"
    if built != installed:
        raise UnsupportedError(
            f"the {what} was built from {built} but {installed} is installed; run "
            "`flexinfer serve --build`"
        )
    present = sources()
    if present is not None and digest != _digest(present):
        raise UnsupportedError(
            f"the {what} was built from other sources than those in {present}; run "
            "`flexinfer serve --build`"
        )
    return native


def _digest(folder: Path) -> str:
    return str(runpy.run_path(str(folder / "digest.py"))["sources_digest"](folder))
