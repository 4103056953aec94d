"""A routed step at work: the rows of its experts, and the private nodes of those that arrived.

An expert with one row computes straight from and into the graph's tensors. The rows of one with
more are gathered before and scattered after, all in one node: kernels, and with them bits, depend
on how many rows an expert has (``ggml_compute_forward_mul_mat_id``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from flexinfer.native.graph.expert_nodes import Routed, RoutedNode, Singles
from flexinfer.native.mirror import Tensor
from flexinfer.seam import Batch, Ready


class Scratch:
    """Memory that the routed nodes of a model share: gathered rows, results, tensors, pointers.

    Grows to what the largest batch needs.
    """

    def __init__(self) -> None:
        self._rows = np.empty(0, np.float32)
        self._tensors = (Tensor * 0)()
        self.zeros = np.zeros(1, np.int32)
        self.array = (ctypes.c_uint64 * 0)()

    def rows(self, count: int) -> Any:
        """Room for `count` numbers."""
        if len(self._rows) < count:
            self._rows = np.empty(count, np.float32)
        return self._rows

    def tensors(self, count: int) -> Any:
        if len(self._tensors) < count:
            self._tensors = (Tensor * count)()
            self.array = (ctypes.c_uint64 * count)()
        return self._tensors

    def zero_ids(self, count: int) -> int:
        """Address of `count` zeros."""
        if len(self.zeros) < count:
            self.zeros = np.zeros(count, np.int32)
        return int(self.zeros.ctypes.data)


class Routing(Protocol):
    """One routed step at work: what it wants, and the private nodes of what has arrived."""

    batch: Batch

    def segments(self, ready: Ready) -> Iterator[tuple[Any, int]]:
        """Arrays of node pointers with their lengths; `finish` follows each."""

    def finish(self) -> None:
        """The last segment was computed."""


def route(routed: Routed, scratch: Scratch) -> Routing:
    """Read the ids of a step, which exist by now."""
    ids = routed.read_ids()
    if len(ids) == 1 and len(set(ids[0])) == len(ids[0]):
        return TokenRouting(routed, ids)
    if routed.alone:
        return AloneRouting(routed, ids, scratch)
    return BatchRouting(routed, ids, scratch)


def _batch(routed: Routed, ids: Sequence[Sequence[int]], uses: Mapping[int, int]) -> Batch:
    then = routed.next.members if routed.next is not None else ()
    return Batch(routed.group, routed.members, then, routed.first, len(ids), uses, ids)


class TokenRouting:
    """One token: a row for each expert, computed where the graph has it."""

    def __init__(self, routed: Routed, ids: Sequence[Sequence[int]]) -> None:
        experts = ids[0]
        if routed.singles is None:
            routed.singles = Singles(routed, len(experts))
        self._singles = routed.singles
        self._position = {expert: k for k, expert in enumerate(experts)}
        self.batch = _batch(routed, ids, dict.fromkeys(experts, 1))

    def segments(self, ready: Ready) -> Iterator[tuple[Any, int]]:
        yield self._singles.array, self._singles.place(ready, self._position)

    def finish(self) -> None:
        """Results are in place already."""


class BatchRouting:
    """Several tokens: an expert's rows are gathered, computed in one node, and scattered."""

    def __init__(self, routed: Routed, ids: Sequence[Sequence[int]], scratch: Scratch) -> None:
        flat = np.array(ids, np.int32).reshape(-1)
        tokens, self._used = len(ids), len(ids[0])
        self._nodes = routed.nodes
        self._scratch = scratch
        order = np.argsort(flat, kind="stable")
        experts, starts = np.unique(flat[order], return_index=True)
        parts = np.split(order, starts[1:])
        self._rows = dict(zip(experts.tolist(), parts, strict=True))
        uses = {expert: len(rows) for expert, rows in self._rows.items()}
        self._limit = max(tokens, max(uses.values()))
        self.batch = _batch(routed, ids, uses)
        self._gathered: list[tuple[RoutedNode, Any, Any]] = []

    def segments(self, ready: Ready) -> Iterator[tuple[Any, int]]:
        """Arrays of node pointers with their lengths; `finish` follows each."""
        while ready:
            count, rows = 0, 0
            while count < len(ready) and (
                not count or rows + len(self._rows[ready[count][0]]) <= self._limit
            ):
                rows += len(self._rows[ready[count][0]])
                count += 1
            yield self._segment(ready[:count], rows), count * len(self._nodes)
            ready = ready[count:]

    def finish(self) -> None:
        """Bring the results of gathered rows to where the graph wants them."""
        for node, rows, results in self._gathered:
            node.scatter(rows, self._used, results)
        self._gathered.clear()

    def _segment(self, ready: Sequence[tuple[int, tuple[int, ...]]], rows: int) -> Any:
        scratch = self._scratch
        tensors = scratch.tensors(4 * len(ready) * len(self._nodes))
        ids = scratch.zero_ids(self._limit)
        room = _Room(scratch.rows(self._limit * self._row_numbers()))
        at = 0
        for expert, addresses in ready:
            rows_of = self._rows[expert]
            many = len(rows_of) > 1
            inputs: dict[int, int] = {}
            for node, weight in zip(self._nodes, addresses, strict=True):
                if many:
                    source, target = self._gather(node, rows_of, room, inputs)
                else:
                    token, k = divmod(int(rows_of[0]), self._used)
                    source, target = node.source(token, k), node.target(token, k)
                scratch.array[at // 4] = node.copy(
                    tensors, at, weight, source, target, ids, len(rows_of)
                )
                at += 4
        return scratch.array

    def _row_numbers(self) -> int:
        return sum(int(n.input.ne[0] + n.node.ne[0]) for n in self._nodes)

    def _gather(
        self, node: RoutedNode, rows: Any, room: _Room, inputs: dict[int, int]
    ) -> tuple[int, int]:
        """Addresses of the gathered input, shared by nodes with the same one, and of the result."""
        key = ctypes.addressof(node.input)
        if key not in inputs:
            gathered = room.take(len(rows), node.input.ne[0])
            node.gather(rows, self._used, gathered)
            inputs[key] = int(gathered.ctypes.data)
        results = room.take(len(rows), node.node.ne[0])
        self._gathered.append((node, rows, results))
        return inputs[key], int(results.ctypes.data)


class AloneRouting:
    """Several tokens, each row computed as that of one token is: where the graph has it."""

    def __init__(self, routed: Routed, ids: Sequence[Sequence[int]], scratch: Scratch) -> None:
        self._nodes = routed.nodes
        self._scratch = scratch
        self._rows: dict[int, list[tuple[int, int]]] = {}
        for token, experts in enumerate(ids):
            for k, expert in enumerate(experts):
                self._rows.setdefault(expert, []).append((token, k))
        uses = {expert: len(rows) for expert, rows in self._rows.items()}
        self.batch = _batch(routed, ids, uses)

    def segments(self, ready: Ready) -> Iterator[tuple[Any, int]]:
        count = sum(len(self._rows[expert]) for expert, _ in ready) * len(self._nodes)
        tensors, ids = self._scratch.tensors(4 * count), self._scratch.zero_ids(1)
        array, at = self._scratch.array, 0
        for expert, addresses in ready:
            for node, weight in zip(self._nodes, addresses, strict=True):
                for token, k in self._rows[expert]:
                    source, target = node.source(token, k), node.target(token, k)
                    array[at] = node.copy(tensors, 4 * at, weight, source, target, ids, 1)
                    at += 1
        if count:
            yield array, count

    def finish(self) -> None:
        """Results are in place already."""


class _Room:
    """Hands out pieces of one array."""

    def __init__(self, numbers: Any) -> None:
        self._numbers = numbers
        self._at = 0

    def take(self, rows: int, columns: int) -> Any:
        at, self._at = self._at, self._at + rows * columns
        return self._numbers[at : self._at].reshape(rows, columns)
