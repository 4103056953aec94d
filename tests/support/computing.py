"""Computing that notes its segments, and a pass that is run with it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from flexinfer.engine.one_pass import OnePass
from flexinfer.native.graph.routing import Scratch
from support.memory_source import PART_BYTES, HandMade, MemorySource, content


class Computing:
    """Notes each segment; asked to, looks at what the loads of its steps point at."""

    def __init__(self, program: HandMade, status: Callable[[int], int] = lambda n: 0) -> None:
        self.segments: list[Any] = []
        self._program = program
        self._status = status

    def __call__(self, segment: Any) -> int:
        for number in segment:
            if number < len(self._program.steps):
                for load in self._program.steps[number].loads:
                    address = self._program.cells[load.index].value
                    assert ctypes.string_at(address, PART_BYTES) == content(load.part)
        self.segments.append(segment)
        return self._status(len(self.segments))


def run(
    program: HandMade,
    source: MemorySource,
    compute: Computing,
    *,
    check: Callable[[], None] = lambda: None,
    merge_bytes: int = 0,
) -> int:
    return OnePass(program, source, compute, check, Scratch(), merge_bytes).run()
