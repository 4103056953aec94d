"""The C heap: what was freed in it goes back to the system."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Give freed pages of the C heap back, where the C library can; takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
