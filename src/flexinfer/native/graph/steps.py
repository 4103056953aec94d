"""One step of a pass: its nodes, and the parts of weights that must be in memory before them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flexinfer.errors import EngineError
from flexinfer.native.graph.expert_nodes import Routed
from flexinfer.native.graph.nodes import read_node
from flexinfer.native.mirror import Tensor
from flexinfer.seam import Part, RowTable

_DATA = Tensor.data.offset


class Load:
    """One part of a weight that a step needs, and the ``data`` fields that must point at it."""

    __slots__ = ("absent", "cells", "index", "part")

    def __init__(self, part: Part, index: int, absent: int) -> None:
        self.part = part
        self.index = index
        self.absent = absent
        self.cells: list[tuple[ctypes.c_uint64, int]] = []

    def __repr__(self) -> str:
        return f"<Load {self.index} {self.part!r} {len(self.cells)} pointers>"

    def point(self, tensor: int, delta: int) -> None:
        self.cells.append((ctypes.c_uint64.from_address(tensor + _DATA), delta))

    def place(self, address: int) -> None:
        for cell, delta in self.cells:
            cell.value = address + delta

    def clear(self) -> None:
        """Point where nothing can be read: a mistake must fault, not compute with old bytes."""
        self.place(self.absent)


@dataclass(frozen=True)
class RowLookup:
    """A `GET_ROWS` whose table is read row by row: the ids exist once the node comes up."""

    table: RowTable
    ids: int
    load: Load

    def rows(self) -> list[int]:
        """The distinct row numbers that the node will read, in file order."""
        node = read_node(self.ids)
        tensor = Tensor.from_address(self.ids)
        found: set[int] = set()
        for base in _vectors(tensor, node.ne):
            found.update((ctypes.c_int32 * node.ne[0]).from_address(base))
        return sorted(found)


def _vectors(tensor: Tensor, ne: Sequence[int]) -> Iterator[int]:
    """Addresses of the innermost vectors of a tensor of 32-bit numbers."""
    if tensor.nb[0] != 4 and ne[0] > 1:
        raise EngineError("a GET_ROWS node has ids that are not contiguous")
    for i3 in range(ne[3]):
        for i2 in range(ne[2]):
            for i1 in range(ne[1]):
                yield tensor.data + i1 * tensor.nb[1] + i2 * tensor.nb[2] + i3 * tensor.nb[3]


class Step:
    """Nodes ``start`` to ``stop`` of a program, to be computed once `loads` are in memory.

    A step with `routed` computes only those nodes, none of its own.

    Attributes:
        loads: the parts that its nodes need whole.
        lookups: the tables of which it needs some rows.
        releases: loads with a smaller index are used up after it.
        stream_bytes: of its loads that do not stay.
    """

    __slots__ = ("loads", "lookups", "releases", "routed", "start", "stop", "stream_bytes")

    def __init__(self, start: int) -> None:
        self.start = start
        self.stop = start
        self.loads: list[Load] = []
        self.lookups: list[RowLookup] = []
        self.routed: Routed | None = None
        self.releases = 0
        self.stream_bytes = 0

    def __repr__(self) -> str:
        return f"<Step {self.start}:{self.stop} {self.loads} {self.lookups}>"
