"""Ranges of addresses without memory behind them: what touches one faults.

Of libc, as Python's own `mmap` maps nothing that may not be touched.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from typing import Any

from flexinfer.memory.refusals import refused

_PROT_NONE = 0
_PRIVATE_ANONYMOUS_NORESERVE = 0x02 | 0x20 | 0x4000


@lru_cache(maxsize=1)
def _libc() -> Any:
    c = ctypes.CDLL(None, use_errno=True)
    c.mmap.restype = c_void_p
    c.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_int64]
    c.munmap.argtypes = [c_void_p, c_size_t]
    return c


def reserve_address_space(nbytes: int) -> int:
    """Map `nbytes` that cannot be touched: a read or write through them is a fault, not a zero.

    Raises:
        BudgetError: the system has no such range.
    """
    address = _libc().mmap(None, nbytes, _PROT_NONE, _PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise refused("the address space of a buffer or of the model's weights", nbytes)
    return int(address)


def release_address_space(address: int, nbytes: int) -> None:
    _libc().munmap(address, nbytes)
