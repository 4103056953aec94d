"""A file of random bytes to read, how to read it, and reads that are held back or refused."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

import pytest

from flexinfer.memory.pages import Arena
from flexinfer.reading.reader import Reader, Transfer

SIZE = 3_000_123
DATA = bytes(os.urandom(SIZE))
PIECE = 64 << 10


class Gate:
    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.arm: Callable[[], None] = lambda: None


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refusing)


def load(
    reader: Reader, arena: Arena, offset: int, length: int, file: int = 0
) -> tuple[Transfer, memoryview]:
    start, stop = reader.span(file, offset, length)
    view = arena.view(0, stop - start)
    transfer = reader.start(file, start, view, offset + length - start)
    assert transfer.wait(10)
    return transfer, view[offset - start : offset - start + length]
