"""What native calls are handed to write into: the first byte of a buffer, a number."""

from __future__ import annotations

import ctypes

from flexinfer.memory.pages import address_of


def first_byte(buffer: bytes | bytearray) -> ctypes.Array[ctypes.c_uint8]:
    """A pointer to `buffer`, which has to outlive the call."""
    # By address: an object that owned the buffer could outlive the call in a cycle.
    return (ctypes.c_uint8 * 1).from_address(address_of(buffer))


def text_cell(nbytes: int) -> ctypes.Array[ctypes.c_char]:
    """Room for a text of so many bytes, its zero included; its `value` is then the bytes."""
    return ctypes.create_string_buffer(nbytes)


def size_cell() -> ctypes.c_size_t:
    """A ``size_t`` for a call to fill in; its `value` is then the number."""
    return ctypes.c_size_t()


def float_cell(value: float) -> ctypes.c_float:
    """A ``float`` for a call to read."""
    return ctypes.c_float(value)
