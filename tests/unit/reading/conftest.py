"""What tests of reading share: a file, memory to read into, and a gate that holds reads back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.read_bytes import DATA, Gate

from flexinfer.memory.pages import Arena


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    with path.open("wb") as file:
        file.write(DATA)
        file.flush()
        os.fsync(file.fileno())
    return path


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(4 << 20)
    yield arena
    arena.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Reads of pieces wait until the gate opens; what is said under `entered` runs already."""
    gate = Gate()
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        gate.entered.release()
        assert gate.opened.wait(10)
        return real(fd, buffers, offset)

    gate.arm = lambda: monkeypatch.setattr(os, "preadv", preadv)
    yield gate
    gate.opened.set()
