"""From a ggml graph to the steps of one pass: which nodes, which weights, in which order.

A `Program` belongs to one graph (its ``uid``) and one layout of the weights. It never changes the
graph: nodes that are computed in row slices, and the weights they point at, are private copies.
Only the ``data`` field of weights and of views of weights is written, by `Load.place`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod

from flexinfer.errors import EngineError
from flexinfer.native.graph.expert_nodes import Routed
from flexinfer.native.library import library
from flexinfer.native.mirror import CGraph, Tensor
from flexinfer.planning.plan import Use
from flexinfer.seam import ExpertPlace, Layout, Part, RowTable

# type, ne, nb, op, src, view_src, view_offs, data; buffer, op_params and flags are skipped
_NODE = struct.Struct("<i12x4q4Qi68x10QQQQ")
_DATA = Tensor.data.offset
_MAX_OPERATIONS = 256


@cache
def operation(name: str) -> int:
    """Number of the operation `name` in the loaded library."""
    native = library()
    wanted = name.encode()
    return next(i for i in range(_MAX_OPERATIONS) if native.ggml_op_name(i) == wanted)


@lru_cache(maxsize=1)
def _without_work() -> frozenset[int]:
    return frozenset(map(operation, ("NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE")))


@dataclass(frozen=True)
class Node:
    """The fields of one graph node that decide what it reads."""

    address: int
    type: int
    ne: tuple[int, ...]
    op: int
    sources: tuple[int, ...]

    @property
    def computes(self) -> bool:
        """False for views and for nodes over no rows: those read no weight."""
        return self.op not in _without_work() and 0 not in self.ne


def node_addresses(graph: CGraph) -> list[int]:
    return list((ctypes.c_uint64 * graph.n_nodes).from_address(graph.nodes))


def read_node(address: int) -> Node:
    fields = _NODE.unpack_from((ctypes.c_char * _NODE.size).from_address(address))
    return Node(address, fields[0], fields[1:5], fields[9], fields[10:20])


def read_nodes(graph_address: int) -> list[Node]:
    """All nodes of the graph, in the order in which they are computed."""
    return [read_node(a) for a in node_addresses(CGraph.from_address(graph_address))]


def root_of(source: int, weights: Mapping[int, object]) -> int:
    """The weight that `source` is, or is a view of; 0 when it is neither."""
    while source not in weights:
        source = Tensor.from_address(source).view_src or 0
        if not source:
            return 0
    return source


def weight_uses(nodes: Sequence[Node], weights: Mapping[int, object]) -> dict[int, Use]:
    """How the graph reads each weight, in the order of first use.

    A weight that only `MUL_MAT` reads as its whole first source may be cut in rows; one that only
    `GET_ROWS` reads needs a few rows; every other use needs all of it.
    """
    uses: dict[int, set[Use]] = {}
    for node in nodes:
        if not node.computes:
            continue
        for position, source in enumerate(node.sources):
            if source and (root := root_of(source, weights)):
                uses.setdefault(root, set()).add(_use(node, position, source == root))
    return {root: _combined(found) for root, found in uses.items()}


def _use(node: Node, position: int, direct: bool) -> Use:
    if position == 0 and direct:
        two_dimensional = Tensor.from_address(node.sources[0]).ne[2] == 1
        if node.op == operation("MUL_MAT") and two_dimensional:
            return Use.MATMUL
        if node.op == operation("GET_ROWS") and two_dimensional:
            return Use.ROWS
        if node.op == operation("MUL_MAT_ID"):
            return Use.EXPERTS
    return Use.WHOLE


def looked_up(nodes: Sequence[Node], weights: Mapping[int, object]) -> set[int]:
    """Weights of which the graph reads single rows, whatever else it does with them."""
    return {
        node.sources[0]
        for node in nodes
        if node.computes and node.sources[0] in weights and _use(node, 0, True) is Use.ROWS
    }


@dataclass(frozen=True)
class ExpertUse:
    """Weights with the same `group` get their ids from the same tensor, `used` for each token."""

    group: int
    used: int


def note_expert_uses(
    nodes: Sequence[Node], weights: Mapping[int, object], known: dict[int, ExpertUse]
) -> None:
    """Add to `known` the weights that `MUL_MAT_ID` reads matrix by matrix."""
    by_ids: dict[int, list[int]] = {}
    for node in nodes:
        if node.computes and node.op == operation("MUL_MAT_ID") and node.sources[0] in weights:
            by_ids.setdefault(node.sources[2], []).append(node.sources[0])
    for ids, members in by_ids.items():
        group = next((known[m].group for m in members if m in known), len(known))
        used = read_node(ids).ne[0]
        for member in members:
            known.setdefault(member, ExpertUse(group, used))


def _combined(found: set[Use]) -> Use:
    if found == {Use.MATMUL, Use.ROWS}:
        return Use.MATMUL
    return next(iter(found)) if len(found) == 1 else Use.WHOLE


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

    `releases` are indices of loads that no later step uses. A step with `routed` computes only
    those nodes, none of its own.
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


class Program:
    """The steps of one graph under one layout; `segment` gives what ggml computes.

    Attributes:
        steps: in order; together they cover every node.
        rows: of what the graph does with a weight first: the tokens of the batch.
        sequence: the part of each load, in the order of use.
        version: of the layouts it was built for.
    """

    def __init__(self, graph_address: int, layouts: Mapping[int, Layout], version: int) -> None:
        self.version = version
        self.steps: list[Step] = [Step(0)]
        self.rows = 0
        self.sequence: list[Part] = []
        self._layouts = layouts
        self._nodes: list[int] = []
        self._routed: dict[tuple[int, int], Routed] = {}
        self._private: list[Tensor] = []
        for address in node_addresses(CGraph.from_address(graph_address)):
            self._add(read_node(address))
        self._close()
        self._array = (ctypes.c_uint64 * max(len(self._nodes), 1))(*self._nodes)
        self._segment = CGraph()

    def __repr__(self) -> str:
        return f"<Program {len(self._nodes)} nodes, {len(self.steps)} steps>"

    @property
    def routed(self) -> list[Routed]:
        """The expert nodes of all steps that have some."""
        return [step.routed for step in self.steps if step.routed is not None]

    def begin(self, graph_address: int) -> None:
        """Take over the graph's tables for this pass."""
        ctypes.memmove(ctypes.addressof(self._segment), graph_address, ctypes.sizeof(CGraph))

    def segment(self, start: int, stop: int) -> CGraph:
        """A graph of the nodes `start` to `stop`; valid until the next call."""
        return self.segment_of(self._array, stop - start, start)

    def segment_of(self, array: ctypes.Array[ctypes.c_uint64], count: int, at: int = 0) -> CGraph:
        """A graph of `count` nodes of an array of their addresses; valid until the next call."""
        self._segment.nodes = ctypes.addressof(array) + 8 * at
        self._segment.n_nodes = count
        return self._segment

    # -- building -----------------------------------------------------------------------------

    def _add(self, node: Node) -> None:
        if node.computes:
            for position, source in enumerate(node.sources):
                if source and (root := root_of(source, self._layouts)):
                    layout = self._layouts[root]
                    self.rows = self.rows or prod(node.ne[1:])
                    if layout.experts:
                        self._route(node, position, layout, layout.experts)
                        return
                    if position == 0 and layout.table and node.op == operation("GET_ROWS"):
                        self._look_up(node, root, layout.table)
                    elif len(layout.parts) == 1:
                        self._need(layout.parts[0], layout.absent, source, root)
                    else:
                        self._slice(node, position, layout)
                        return
        self._append(node.address)

    def _append(self, address: int) -> None:
        if self.steps[-1].routed is not None:
            self._open()
        self._nodes.append(address)

    def _open(self) -> Step:
        """The step that the next node belongs to, new if the last one has nodes already."""
        step = self.steps[-1]
        if len(self._nodes) > step.start or step.routed is not None:
            self._close()
            step = Step(len(self._nodes))
            self.steps.append(step)
        return step

    def _close(self) -> None:
        self.steps[-1].stop = len(self._nodes)
        self.steps[-1].releases = len(self.sequence)

    def _route(self, node: Node, position: int, layout: Layout, place: ExpertPlace) -> None:
        """Add an expert node to the step before, if it has the same routing, or to a new one."""
        if node.op != operation("MUL_MAT_ID") or position != 0:
            raise EngineError(f"{layout.name} is held by expert but another operation needs it")
        ids = node.sources[2]
        routed = self.steps[-1].routed
        if routed is None or not routed.takes(place.group, ids, node.sources[1]):
            before = self._routed.get((place.group, ids))
            routed = self._open().routed = Routed(place.group, ids, first=before is None)
            if before is not None:
                before.next = routed
            self._routed[place.group, ids] = routed
        routed.add(node.address, place.member)

    def _look_up(self, node: Node, root: int, table: RowTable) -> None:
        step = self._open()
        absent = self._layouts[root].absent
        step.lookups.append(RowLookup(table, node.sources[1], Load(table.part, -1, absent)))
        step.lookups[-1].load.point(root, 0)

    def _need(self, part: Part, absent: int, source: int, root: int) -> None:
        delta = _view_offset(source, root)
        if part.address:
            load = Load(part, -1, absent)
        else:
            load = self._load(part, absent)
            if root != source:
                load.point(root, 0)
        load.point(source, delta)
        if part.address:
            load.place(part.address)
        else:
            load.clear()

    def _load(self, part: Part, absent: int) -> Load:
        step = self.steps[-1]
        if len(self._nodes) == step.start and step.routed is None:
            for load in step.loads:
                if load.part is part:
                    return load
        step = self._open()
        load = Load(part, len(self.sequence), absent)
        step.loads.append(load)
        self.sequence.append(part)
        if not part.locked:
            step.stream_bytes += part.nbytes
        return load

    def _slice(self, node: Node, position: int, layout: Layout) -> None:
        if node.op != operation("MUL_MAT") or position != 0:
            raise EngineError(
                f"{layout.name} is cut in rows but {library().ggml_op_name(node.op).decode()}"
                " needs it whole"
            )
        for part in layout.parts:
            weight = copy_of(node.sources[0])
            product = copy_of(node.address)
            weight.ne[1] = product.ne[0] = part.rows
            product.src[0] = ctypes.addressof(weight)
            product.data += part.first_row * product.nb[0]
            self._private += (weight, product)
            self._need(part, layout.absent, ctypes.addressof(weight), ctypes.addressof(weight))
            self._append(ctypes.addressof(product))


def copy_of(address: int) -> Tensor:
    """A tensor of our own with the fields of the one at `address`."""
    return Tensor.from_buffer_copy(ctypes.string_at(address, ctypes.sizeof(Tensor)))


def _view_offset(source: int, root: int) -> int:
    """Bytes from the weight to the view `source` of it (0 for the weight itself)."""
    if source == root:
        return 0
    # ggml flattens chains: view_src is the root and view_offs counts from it.
    tensor = Tensor.from_address(source)
    return int(tensor.view_offs) + _view_offset(tensor.view_src, root)
