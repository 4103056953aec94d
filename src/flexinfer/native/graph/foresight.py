"""The nodes by which a layer chooses its experts, run early on what the layer before them read.

Private copies, as in `expert_nodes`: the graph's own nodes, results and ids stay as they are. From
a layer's ids the nodes are followed back to the one that multiplies the router's weight; its input
is replaced by that of an earlier layer's router, which differs from it by one layer's work. So
whatever an architecture does between (biases, groups, normalising) is done to the guess as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flexinfer.native.graph.expert_nodes import Routed
from flexinfer.native.graph.nodes import (
    copy_of,
    node_addresses,
    operation,
    read_node,
    root_of,
    viewed,
)
from flexinfer.native.library import library
from flexinfer.native.mirror import CGraph, Tensor
from flexinfer.seam import Layout

# More nodes than any architecture has between a router's weight and its ids.
_MOST_NODES = 64
_ALIGNMENT = 64


class Foresight:
    """Guesses the experts of the group `group` from what the router of a step before read.

    Args:
        search: the nodes of the later routing.
        given: the input of the earlier router.
        order: position of each node in the graph.

    Attributes:
        array, count: the nodes to compute, as `Program.segment_of` takes them.
    """

    def __init__(self, group: int, search: _Search, given: int, order: Mapping[int, int]) -> None:
        self.group = group
        # In the graph's order: a result may be changed in place after others have read it.
        nodes = sorted(search.nodes, key=lambda address: order[address])
        self._given = Tensor.from_address(given)
        self._tensors = {address: copy_of(address) for address in (search.source, *nodes)}
        self._input = self._tensors[search.source]
        self._input.view_src = None
        self._ids = self._tensors[search.ids]
        self._memory: list[npt.NDArray[np.uint8]] = []
        for copy in self._tensors.values():
            self._refer(copy)
        for address in nodes:
            self._place(self._tensors[address])
        computed = [self._tensors[a] for a in nodes if read_node(a).computes]
        self.count = len(computed)
        self.array = (ctypes.c_uint64 * self.count)(*map(ctypes.addressof, computed))

    def __repr__(self) -> str:
        return f"<Foresight of group {self.group}, {self.count} nodes>"

    @property
    def used(self) -> int:
        """Experts of a token."""
        return int(self._ids.ne[0])

    def aim(self) -> None:
        """Read what the earlier router read, which exists by now."""
        self._input.data = self._given.data

    def experts(self) -> list[int]:
        """What the nodes chose, once they are computed; likeliest first where ids are sorted."""
        ids = self._ids
        return list((ctypes.c_int32 * ids.ne[0]).from_address(ids.data))

    def _refer(self, copy: Tensor) -> None:
        """Let a copy read copies, and weights where they are."""
        for number, source in enumerate(copy.src):
            if source in self._tensors:
                copy.src[number] = ctypes.addressof(self._tensors[source])
        if copy.view_src in self._tensors:
            copy.view_src = ctypes.addressof(self._tensors[copy.view_src])

    def _place(self, copy: Tensor) -> None:
        """Memory of its own for a result; a view's is that of what it views, made before it."""
        if copy.view_src:
            copy.data = Tensor.from_address(copy.view_src).data + copy.view_offs
            return
        nbytes = int(library().ggml_nbytes(ctypes.addressof(copy)))
        memory = np.zeros(nbytes + _ALIGNMENT, np.uint8)
        self._memory.append(memory)
        copy.data = -(-int(memory.ctypes.data) // _ALIGNMENT) * _ALIGNMENT


class _Search:
    """Follows ids back to the router's input.

    Attributes:
        nodes: what was met on the way.
        source: the router's input.
        complete: the nodes need nothing else but weights that are in memory.
    """

    def __init__(self, ids: int, layouts: Mapping[int, Layout]) -> None:
        self.ids = ids
        self.nodes: list[int] = []
        self.source = 0
        self._layouts = layouts
        self.complete = self._follow(ids) and self.source != 0

    def _follow(self, address: int) -> bool:
        """Whether this tensor and all it comes from are known and in memory."""
        if address in self.nodes or address == self.source:
            return True
        root = root_of(address, self._layouts)
        if root:
            return _in_memory(self._layouts[root])
        node = read_node(address)
        if node.op == operation("NONE") or len(self.nodes) >= _MOST_NODES:
            return False
        tensor = Tensor.from_address(address)
        # A cast names itself as its second source.
        sources = {s for s in (*node.sources, tensor.view_src or 0) if s and s != address}
        multiplied = node.op == operation("MUL_MAT") and root_of(node.sources[0], self._layouts)
        if multiplied:
            if self.source not in (0, node.sources[1]):
                return False
            self.source = node.sources[1]
            sources = {node.sources[0]}
        if not all(self._follow(source) for source in sources):
            return False
        self.nodes.append(address)
        return True


def _in_memory(layout: Layout) -> bool:
    """In one piece, and as the file has it: what is packed is no use to the graph's own nodes."""
    return not layout.packing and len(layout.parts) == 1 and bool(layout.parts[0].address)


def foresee(
    graph_address: int, steps: Sequence[Routed], layouts: Mapping[int, Layout]
) -> dict[Routed, Foresight]:
    """For the steps of a graph for one token, a foresight of the routing after theirs.

    A step has none where a router's weight is not in memory, and where the router's input is not
    the experts' as well: it may be overwritten before they run.
    """
    firsts = [step for step in steps if step.first and step.tokens == 1]
    found: dict[Routed, Foresight] = {}
    if len(firsts) < 2:
        return found
    nodes = node_addresses(CGraph.from_address(graph_address))
    order = {address: position for position, address in enumerate(nodes)}
    searches = [_Search(step.ids, layouts) for step in firsts]
    for step, here, following, there in zip(
        firsts, searches, firsts[1:], searches[1:], strict=False
    ):
        if not (here.complete and there.complete and _experts_read(step, here.source)):
            continue
        if following.group == step.group or not all(node in order for node in there.nodes):
            continue
        if _form(here.source) == _form(there.source):
            found[step] = Foresight(following.group, there, here.source, order)
    return found


def _experts_read(step: Routed, source: int) -> bool:
    return viewed(source) in {viewed(node.node.src[1]) for node in step.nodes}


def _form(address: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    tensor = Tensor.from_address(address)
    return tensor.type, tuple(tensor.ne), tuple(tensor.nb)
