"""Memory that the system never swaps out, whole pages at a time.

Of libc, as addresses are plain numbers here; Python has no call for it.
"""

from __future__ import annotations

import ctypes

# MLOCK_ONFAULT of <sys/mman.h>: pages are locked as they become resident, none is made so.
_ON_FAULT = 1


def lock_pages(address: int, nbytes: int) -> bool:
    """Keep the pages of a range in memory once they are; False where the limit does not allow it.

    Source: mlock2(2).
    """
    return bool(_libc().mlock2(address, nbytes, _ON_FAULT) == 0)


def unlock_pages(address: int, nbytes: int) -> None:
    """Let go of a range; pages that are locked cannot be given back to the system."""
    _libc().munlock(address, nbytes)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.munlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc
