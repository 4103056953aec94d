"""Nodes for which ggml's CPU backend ends the process, or never ends, when they are computed.

It claims to support them, so nothing but a look at the graph finds them first. Source: the
conditions of ``ggml/src/ggml-cpu/ops.cpp`` and ``binary-ops.cpp`` (ggml 0.25.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from flexinfer.errors import ModelFileError
from flexinfer.native.device.phases import WeightTensor
from flexinfer.native.graph.nodes import Node, operation, root_of
from flexinfer.native.mirror import Tensor

_F32, _F16, _I16, _I32, _BF16 = 0, 1, 25, 26, 30
# i8, i16, i32, i64, f64, and the types that activations are converted to: no dot product.
_NOT_MULTIPLIED = frozenset({9, 15, 24, 25, 26, 27, 28})
_NOT_LOOKED_UP = _NOT_MULTIPLIED - {9, 26}

# Of rotations whose dimensions follow several positions: GGML_ROPE_TYPE_MROPE of ``ggml.h``.
_IN_SECTIONS = 8


@lru_cache(maxsize=1)
def _binary() -> frozenset[int]:
    return frozenset(map(operation, ("ADD", "SUB", "MUL", "DIV")))


@lru_cache(maxsize=1)
def _copying() -> frozenset[int]:
    """They move or convert bytes of any type."""
    return frozenset(map(operation, ("CPY", "CONT", "DUP", "CONCAT", "IM2COL", "IM2COL_3D")))


def check_operands(nodes: Sequence[Node], weights: Mapping[int, WeightTensor], path: str) -> None:
    """Raise for weights of types that an operation does not take, and for impossible rotations.

    Raises:
        ModelFileError: the model, and the weight or the number of dimensions.
    """
    for node in nodes:
        if not node.computes:
            continue
        for position, source in enumerate(node.sources):
            if source and not _takes(node, position, weights):
                raise ModelFileError(
                    f"{path}: {_origin(source, weights)} is of a type that ggml does not take "
                    "where this model uses it, it is mostly f32; convert the model again"
                )
        if node.op == operation("ROPE"):
            _check_rotation(node, path)


def _takes(node: Node, position: int, weights: Mapping[int, WeightTensor]) -> bool:
    """Whether the operation computes with the type that its source at `position` has.

    What is no weight has the type that llama.cpp gave it, or that of a weight it comes from.
    """
    source = node.sources[position]
    kind = Tensor.from_address(source).type
    if kind == _F32 or node.op in _copying():
        return True
    if node.op in _binary():
        if position == 0:
            return kind in (_F16, _BF16)
        return bool(kind == Tensor.from_address(node.sources[0]).type)
    if node.op == operation("REPEAT"):
        return kind in (_F16, _BF16, _I16, _I32)
    if not root_of(source, weights):
        return True
    if node.op == operation("MUL_MAT"):
        return position == 1 or kind not in _NOT_MULTIPLIED
    if node.op == operation("MUL_MAT_ID"):
        return position == 0 and kind not in _NOT_MULTIPLIED
    if node.op == operation("GET_ROWS"):
        return position == 0 and kind not in _NOT_LOOKED_UP
    return False


def _origin(source: int, weights: Mapping[int, WeightTensor]) -> str:
    """The weight that a tensor is made from, through views, repetitions and rows of it."""
    tensor = Tensor.from_address(source)
    weight = weights.get(root_of(source, weights))
    if weight is not None:
        return weight.name
    return _origin(tensor.src[0], weights) if tensor.src[0] else str(tensor.name.decode())


def _check_rotation(node: Node, path: str) -> None:
    """ggml never ends rotating 0 dimensions; other impossible numbers end the process."""
    parameters = Tensor.from_address(node.address).op_params
    (rotated, mode), (*sections, offset) = parameters[1:3], parameters[11:16]
    if rotated < 2 or rotated % 2 or offset % 2 or offset + rotated > node.ne[0]:
        raise ModelFileError(
            f"{path}: {rotated} dimensions of {node.ne[0]} are to be rotated (rope.dimension_count "
            "in the metadata), not an even number of them; fetch or convert the model again"
        )
    if mode & _IN_SECTIONS and not (max(sections[:3]) > 0 and 0 < sum(sections) <= node.ne[0]):
        raise ModelFileError(
            f"{path}: {node.ne[0]} dimensions are to be rotated in sections of {sections} "
            "(rope.dimension_sections in the metadata), whose sum must be from 1 to as many; fetch "
            "or convert the model again"
        )
