"""How the graphs of a model read its weights: whole, in rows, or matrix by matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexinfer.native.graph.nodes import Node, operation, products, read_node, root_of
from flexinfer.native.mirror import Tensor
from flexinfer.planning.weights import Use

_F32 = 0


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


def not_times_f32(nodes: Sequence[Node], weights: Mapping[int, object]) -> set[int]:
    """Weights that the graph multiplies with other than f32, for which nothing packed is made."""
    return {
        node.sources[0]
        for node in nodes
        if node.computes
        and node.op in products()
        and node.sources[0] in weights
        and Tensor.from_address(node.sources[1]).type != _F32
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
