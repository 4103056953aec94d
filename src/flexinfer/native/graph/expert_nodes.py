"""Private copies of ``MUL_MAT_ID`` nodes: one for each expert, pointing at wherever it is.

A copy has a weight with one matrix and ids that are all zero, so neither the graph's ids nor its
weights change.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexinfer.errors import EngineError
from flexinfer.native.graph.nodes import viewed
from flexinfer.native.mirror import Tensor
from flexinfer.seam import Packing, Ready

_F32, _I32 = 0, 26
_TENSOR = ctypes.sizeof(Tensor)


class RoutedNode:
    """One ``MUL_MAT_ID`` of the graph and the strides to its rows."""

    def __init__(self, address: int, member: int, packing: Packing | None = None) -> None:
        self.node = Tensor.from_address(address)
        self.weight = Tensor.from_buffer_copy(Tensor.from_address(self.node.src[0]))
        if packing is not None:
            self.weight.buffer, self.weight.extra = packing.buffer, packing.extra
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
        alone: each row is to come out as it would alone.
        next: the next step that has the same routing.
    """

    def __init__(self, group: int, ids: int, first: bool, alone: bool = False) -> None:
        self.group = group
        self.ids = ids
        self.first = first
        self.alone = alone
        self.next: Routed | None = None
        self.singles: Singles | None = None
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

    def add(self, address: int, member: int, packing: Packing | None = None) -> None:
        self.nodes.append(RoutedNode(address, member, packing))
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
        ids = int(self._zeros.ctypes.data)
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
