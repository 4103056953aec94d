"""ggml's log without the lines that a thread of ours asks it to leave out.

The library writes a line for each piece that is packed. One callback serves the whole process, so
ours hands on whatever it does not drop to the one that was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

from flexinfer.native.library import Library
from flexinfer.native.mirror import LOG_LEVEL_DEBUG, LogCallback

# ctypes has no type for what it makes of a function.
_Callback = Any


class LogFilter:
    """Drops the debug lines of threads that are in `quiet`.

    Args:
        native: the checked library.
    """

    def __init__(self, native: Library) -> None:
        self._native = native
        self._local = threading.local()
        # By address, for ever: whoever found one of them in place may put it back.
        self._installed: dict[int | None, _Callback] = {}

    def install(self) -> None:
        """Stand before the callback that is there now; whoever sets one later undoes that."""
        callback, data = ctypes.c_void_p(), ctypes.c_void_p()
        self._native.ggml_log_get(ctypes.byref(callback), ctypes.byref(data))
        if callback.value not in self._installed:
            ours = self._before(LogCallback(callback.value or 0), data.value)
            self._installed[ctypes.cast(ours, ctypes.c_void_p).value] = ours
            self._native.ggml_log_set(ours, None)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """What the library says to this thread meanwhile is dropped, unless it is a warning."""
        self._local.quiet = True
        try:
            yield
        finally:
            self._local.quiet = False

    def _before(self, following: _Callback, data: int | None) -> _Callback:
        """Hands on to `following`, and to no other: that may be gone when another one is."""

        def write(level: int, text: bytes, _data: int | None) -> None:
            if level == LOG_LEVEL_DEBUG and getattr(self._local, "quiet", False):
                return
            if following:
                following(level, text, data)

        return LogCallback(write)
