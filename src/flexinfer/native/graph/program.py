"""From a ggml graph to the steps of one pass: which nodes, which weights, in which order.

A `Program` belongs to one graph (its ``uid``) and one layout of the weights. It never changes the
graph: nodes that are computed in row slices, and the weights they point at, are private copies.
Only the ``data`` field of weights and of views of weights is written, by `Load.place`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from math import prod

from flexinfer.errors import EngineError
from flexinfer.native.graph.expert_nodes import Routed
from flexinfer.native.graph.foresight import Foresight, foresee
from flexinfer.native.graph.nodes import (
    Node,
    copy_of,
    node_addresses,
    operation,
    products,
    read_node,
    root_of,
    view_offset,
)
from flexinfer.native.graph.rows_kept import RowsKept, Width
from flexinfer.native.graph.steps import Load, RowLookup, Step
from flexinfer.native.library import library
from flexinfer.native.mirror import CGraph, Tensor
from flexinfer.seam import ExpertPlace, Layout, Part, RowTable


class Program:
    """The steps of one graph under one layout; `segment` gives what ggml computes.

    Args:
        width: each row is to come out as it would alone, see `rows_kept`; None: as llama.cpp
            computes them together.

    Attributes:
        steps: in order; together they cover every node.
        rows: of what the graph does with a weight first: the tokens of the batch.
        place: of that weight among all; those that follow in one pass have later ones.
        sequence: the part of each load, in the order of use.
        version: of the layouts it was built for.
        foresight: guesses the routing of the layer after, for the routed steps where that works.
    """

    def __init__(
        self,
        graph_address: int,
        layouts: Mapping[int, Layout],
        version: int,
        width: Width | None = None,
    ) -> None:
        self.version = version
        self._rows_kept = RowsKept(width) if width is not None else None
        self.steps: list[Step] = [Step(0)]
        self.rows = 0
        self.place = -1
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
        self.foresight: Mapping[Routed, Foresight] = foresee(graph_address, self.routed, layouts)

    def __repr__(self) -> str:
        return f"<Program {len(self._nodes)} nodes, {len(self.steps)} steps>"

    @property
    def routed(self) -> list[Routed]:
        """The expert nodes of all steps that have some."""
        return [step.routed for step in self.steps if step.routed is not None]

    def begin(self, graph_address: int) -> None:
        """Take over the graph's tables for this pass."""
        ctypes.memmove(ctypes.addressof(self._segment), graph_address, ctypes.sizeof(CGraph))
        if self._rows_kept is not None:
            self._rows_kept.begin()

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
                    if self.place < 0:
                        self.place = list(self._layouts).index(root)
                        self.rows = prod(node.ne[1:])
                    if layout.experts:
                        self._route(node, position, layout, layout.experts)
                        return
                    if position == 0 and layout.table and node.op == operation("GET_ROWS"):
                        self._look_up(node, root, layout.table)
                    elif len(layout.parts) == 1 and not layout.packing:
                        self._need(layout.parts[0], layout.absent, source, root)
                    else:
                        self._multiply(node, position, layout, direct=source == root)
                        return
        self._append(node.address)

    def _append(self, address: int) -> None:
        if self.steps[-1].routed is not None:
            self._open()
        if self._rows_kept is None:
            self._nodes.append(address)
        else:
            self._nodes += self._rows_kept.pieces(address, self.rows)

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
            routed = self._open().routed = Routed(
                *(place.group, ids),
                first=before is None,
                alone=self._rows_kept is not None,
            )
            if before is not None:
                before.next = routed
            self._routed[place.group, ids] = routed
        routed.add(node.address, place.member, layout.packing)

    def _look_up(self, node: Node, root: int, table: RowTable) -> None:
        step = self._open()
        absent = self._layouts[root].absent
        step.lookups.append(RowLookup(table, node.sources[1], Load(table.part, -1, absent)))
        step.lookups[-1].load.point(root, 0)

    def _need(self, part: Part, absent: int, source: int, root: int) -> None:
        delta = view_offset(source, root)
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

    def _multiply(self, node: Node, position: int, layout: Layout, *, direct: bool) -> None:
        """Compute a product by private copies: of each slice of the weight, and as it is packed."""
        cut = len(layout.parts) > 1
        fitting = {operation("MUL_MAT")} if cut else products()
        if node.op not in fitting or position != 0 or not direct:
            how = "cut in rows" if cut else "packed"
            raise EngineError(
                f"{layout.name} is {how} but {library().ggml_op_name(node.op).decode()} needs it "
                "as it is in the file"
            )
        for part in layout.parts:
            weight = copy_of(node.sources[0])
            product = copy_of(node.address)
            if cut:
                weight.ne[1] = product.ne[0] = part.rows
                product.data += part.first_row * product.nb[0]
            if layout.packing is not None:
                weight.buffer, weight.extra = layout.packing.buffer, layout.packing.extra
            product.src[0] = ctypes.addressof(weight)
            self._private += (weight, product)
            self._need(part, layout.absent, ctypes.addressof(weight), ctypes.addressof(weight))
            self._append(ctypes.addressof(product))
