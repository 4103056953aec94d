"""Operands for which ggml's CPU backend aborts the process although it claims to support them.

Source: `binary_op` in ``ggml/src/ggml-cpu/binary-ops.cpp`` (ggml 0.25.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from flexinfer._ggml import Tensor
from flexinfer.device import WeightTensor
from flexinfer.errors import ModelFileError
from flexinfer.graph import Node, operation, root_of

_F32 = 0


@lru_cache(maxsize=1)
def _binary() -> frozenset[int]:
    return frozenset(map(operation, ("ADD", "SUB", "MUL", "DIV")))


def check_operands(nodes: Sequence[Node], weights: Mapping[int, WeightTensor]) -> None:
    """Raise for weights that are added or multiplied in a type that ggml cannot combine.

    Raises:
        ModelFileError: the weight.
    """
    for node in nodes:
        if node.op not in _binary() or not node.computes:
            continue
        first, second = node.sources[:2]
        kinds = Tensor.from_address(first).type, Tensor.from_address(second).type
        if kinds[1] in (_F32, kinds[0]):
            continue
        weight = weights.get(root_of(second, weights))
        if weight is not None:
            raise ModelFileError(
                f"{weight.name} is of a type that ggml cannot combine with what it is added to or "
                "multiplied with, it must be f32; convert the model again"
            )
