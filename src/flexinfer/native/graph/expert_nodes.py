"""Private copies of ``MUL_MAT_ID`` nodes: one for each expert, pointing at wherever it is.

A copy has a weight with one matrix and ids that are all zero, so neither the graph's ids nor its
weights change. An expert with one row computes straight from and into the graph's tensors. The rows
of one with more are gathered before and scattered after, all in one node: kernels, and with them
bits, depend on how many rows an expert has (``ggml_compute_forward_mul_mat_id``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flexinfer.errors import EngineError
from flexinfer.native.mirror import Tensor
from flexinfer.seam import Batch, Ready

if TYPE_CHECKING:
    from flexinfer.native.graph.foresight import Foresight

_F32, _I32 = 0, 26
_TENSOR = ctypes.sizeof(Tensor)


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
        return address_of(self.zeros)


def address_of(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def viewed(address: int) -> int:
    """The tensor that the one at `address` is a view of; the address itself where it is none."""
    return Tensor.from_address(address).view_src or address


class RoutedNode:
    """One ``MUL_MAT_ID`` of the graph and the strides to its rows."""

    def __init__(self, address: int, member: int) -> None:
        self.node = Tensor.from_address(address)
        self.weight = Tensor.from_address(self.node.src[0])
        self.input = Tensor.from_address(self.node.src[1])
        self.member = member
        if self.input.type != _F32 or self.node.type != _F32:
            raise EngineError(f"{self.node.name.decode()} multiplies experts by other than f32")

    def source(self, token: int, k: int) -> int:
        """Address of the input row of the `k`-th expert of a token."""
        x = self.input
        return int(x.data + token * x.nb[2] + k % x.ne[1] * x.nb[1])

    def target(self, token: int, k: int) -> int:
        """Address of its result."""
        return int(self.node.data + token * self.node.nb[2] + k * self.node.nb[1])

    def gather(self, rows: Any, used: int, out: Any) -> None:
        """Copy the input of flat rows (token * used + k) to `out`."""
        x = self.input
        out[:] = _strided(x, x.ne[2])[rows // used, rows % used % x.ne[1]]

    def scatter(self, rows: Any, used: int, results: Any) -> None:
        node = self.node
        _strided(node, node.ne[2])[rows // used, rows % used] = results

    def copy(
        self, tensors: Any, at: int, weight: int, source: int, target: int, ids: int, rows: int
    ) -> int:
        """Fill four tensors from `at` on with a private node; returns the node's address."""
        base = ctypes.addressof(tensors) + at * _TENSOR
        for place, original in enumerate((self.node, self.weight, self.input)):
            ctypes.memmove(base + place * _TENSOR, ctypes.addressof(original), _TENSOR)
        node, matrix, x, zero = (tensors[at + n] for n in range(4))
        node.data, matrix.data, x.data, zero.data = target, weight, source, ids
        matrix.ne[2] = 1
        _shape(node, rows)
        _shape(x, rows)
        zero.type = _I32
        zero.ne[:] = (1, rows, 1, 1)
        zero.nb[:] = (4, 4, 4 * rows, 4 * rows)
        for number in range(3):
            node.src[number] = base + (number + 1) * _TENSOR
        return base


def _shape(tensor: Tensor, rows: int) -> None:
    """One vector for each of `rows`, one after the other."""
    tensor.ne[1], tensor.ne[2], tensor.ne[3] = 1, rows, 1
    if rows > 1:
        size = 4 * tensor.ne[0]
        tensor.nb[1] = tensor.nb[2] = size
        tensor.nb[3] = size * rows
    tensor.view_src = None


def _strided(tensor: Tensor, tokens: int) -> Any:
    """The tensor as f32 [token, k, column]."""
    shape = (tokens, tensor.ne[1], tensor.ne[0])
    nbytes = (tokens - 1) * tensor.nb[2] + (shape[1] - 1) * tensor.nb[1] + 4 * shape[2]
    buffer = (ctypes.c_char * nbytes).from_address(tensor.data)
    strides = (tensor.nb[2], tensor.nb[1], 4)
    return np.ndarray(shape, np.float32, buffer, strides=strides)


class Routed:
    """The nodes of one step that share ids and a group of weights.

    Attributes:
        first: no step before has the same routing.
        next: the next step that has.
        foresight: guesses the routing of the layer after, where that can be done.
    """

    def __init__(self, group: int, ids: int, first: bool) -> None:
        self.group = group
        self.ids = ids
        self.first = first
        self.next: Routed | None = None
        self.singles: Singles | None = None
        self.foresight: Foresight | None = None
        self.nodes: list[RoutedNode] = []
        self._outputs: set[int] = set()

    def __repr__(self) -> str:
        return f"<Routed group {self.group}, matrices {self.members}>"

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(node.member for node in self.nodes)

    @property
    def tokens(self) -> int:
        return int(Tensor.from_address(self.ids).ne[1])

    def takes(self, group: int, ids: int, source: int) -> bool:
        """Whether a node with these sources may join: it must not read a result of the step."""
        return (group, ids) == (self.group, self.ids) and viewed(source) not in self._outputs

    def add(self, address: int, member: int) -> None:
        self.nodes.append(RoutedNode(address, member))
        self._outputs.add(address)

    def read_ids(self) -> list[list[int]]:
        """For each token its experts; the ids exist once what comes before is computed."""
        ids = Tensor.from_address(self.ids)
        used, tokens = ids.ne[0], ids.ne[1]
        base, step = ids.data, ids.nb[1]
        if ids.nb[0] != 4:
            raise EngineError(f"{ids.name.decode()} has ids that are not contiguous")
        return [
            list((ctypes.c_int32 * used).from_address(base + token * step))
            for token in range(tokens)
        ]


class Singles:
    """Private nodes of a step for one token, kept: only the weights' addresses change."""

    def __init__(self, routed: Routed, used: int) -> None:
        self._zeros = np.zeros(1, np.int32)
        self._tensors = (Tensor * (4 * used * len(routed.nodes)))()
        self.array = (ctypes.c_uint64 * (used * len(routed.nodes)))()
        self._nodes: list[list[tuple[int, ctypes.c_uint64]]] = []
        ids = address_of(self._zeros)
        at = 0
        for k in range(used):
            nodes = []
            for node in routed.nodes:
                address = node.copy(
                    self._tensors, at, 0, node.source(0, k), node.target(0, k), ids, 1
                )
                data = address + _TENSOR + Tensor.data.offset
                nodes.append((address, ctypes.c_uint64.from_address(data)))
                at += 4
            self._nodes.append(nodes)

    def place(self, ready: Ready, position: Mapping[int, int]) -> int:
        """Fill `array` with the nodes of `ready` experts; returns how many."""
        array, count = self.array, 0
        for expert, addresses in ready:
            for (node, weight), address in zip(
                self._nodes[position[expert]], addresses, strict=True
            ):
                weight.value = address
                array[count] = node
                count += 1
        return count


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
            inputs[key] = address_of(gathered)
        results = room.take(len(rows), node.node.ne[0])
        self._gathered.append((node, rows, results))
        return inputs[key], address_of(results)


class _Room:
    """Hands out pieces of one array."""

    def __init__(self, numbers: Any) -> None:
        self._numbers = numbers
        self._at = 0

    def take(self, rows: int, columns: int) -> Any:
        at, self._at = self._at, self._at + rows * columns
        return self._numbers[at : self._at].reshape(rows, columns)
