"""What memory holds at an address."""

from __future__ import annotations


def memory(address: int, nbytes: int) -> bytes:
    import ctypes

    return ctypes.string_at(address, nbytes)
