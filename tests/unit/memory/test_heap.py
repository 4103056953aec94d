"""Freed heap leaves the process."""

from __future__ import annotations

import ctypes

import pytest

from flexinfer.machine.machine import process_memory
from flexinfer.memory.heap import trim_heap


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library")
def test_freed_blocks_go_back_to_the_system() -> None:
    native = ctypes.CDLL(None)
    native.malloc.restype = ctypes.c_void_p
    native.free.argtypes = [ctypes.c_void_p]
    blocks = [native.malloc(1000) for _ in range(20_000)]
    for block in blocks:
        ctypes.memset(block, 1, 1000)
    # One block stays at the end, so that the heap does not shrink by itself.
    for block in blocks[:-1]:
        native.free(block)
    before = process_memory()
    trim_heap()
    assert before - process_memory() > 10 << 20
    native.free(blocks[-1])
