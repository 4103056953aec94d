"""ggml's log without the lines that a thread of ours asks it to leave out.

The library writes a line for each piece that is packed. One callback serves the whole process, so
ours hands on whatever it does not drop to the one that was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from flexinfer.native.library import Library
from flexinfer.native.mirror import LOG_LEVEL_DEBUG, LogCallback


class LogFilter:
    """Drops the debug lines of threads that are in `quiet`.

    Args:
        native: the checked library.
    """

    def __init__(self, native: Library) -> None:
        self._native = native
        self._local = threading.local()
        self._next = LogCallback()
        self._data: int | None = None
        self._callback = LogCallback(self._write)
        self._address = ctypes.cast(self._callback, ctypes.c_void_p).value

    def install(self) -> None:
        """Stand before the callback that is there now; whoever sets one later undoes that."""
        callback, data = ctypes.c_void_p(), ctypes.c_void_p()
        self._native.ggml_log_get(ctypes.byref(callback), ctypes.byref(data))
        if callback.value != self._address:
            self._next, self._data = LogCallback(callback.value or 0), data.value
            self._native.ggml_log_set(self._callback, None)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """What the library says to this thread meanwhile is dropped, unless it is a warning."""
        self._local.quiet = True
        try:
            yield
        finally:
            self._local.quiet = False

    def _write(self, level: int, text: bytes, _data: int | None) -> None:
        if level == LOG_LEVEL_DEBUG and getattr(self._local, "quiet", False):
            return
        if self._next:
            self._next(level, text, self._data)
