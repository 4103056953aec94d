"""How many rows of a product are computed as a single one is, found by computing both.

It depends on type, shape, packing and processor, and no table of kernels says it for all of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from flexinfer.native.graph.nodes import copy_of
from flexinfer.native.mirror import STATUS_SUCCESS, CGraph, Tensor

# More rows at once bring little: a weight is then read once for all of them anyhow.
_MOST = 16
# Rows of a weight that are computed: kernels for many, and what is left over by them.
_WHOLE, _REST = 256, 64
_F32, _F16, _BF16 = 0, 1, 30
_ALIGNMENT = 64


class Widths:
    """What was found out about the products of one model."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], int] = {}

    def __repr__(self) -> str:
        return f"<Widths {sorted(self._known.values())}>"

    def width(self, product: Tensor, graph: int, compute: Callable[[CGraph], int]) -> int:
        """The most rows of `product`, up to 16, that come out as single ones, bit for bit.

        Args:
            product: a ``MUL_MAT`` of a matrix.
            graph: address of the graph that it is of.
            compute: computes a graph and returns a ggml status.
        """
        weight = Tensor.from_address(product.src[0])
        if Tensor.from_address(product.src[1]).type != _F32:
            return 1
        rows = min(weight.ne[1], _WHOLE + weight.ne[1] % _REST)
        key = (weight.type, weight.extra or 0, weight.ne[0], rows)
        if key not in self._known:
            self._known[key] = _Trial(product, rows, graph, compute).width()
        return self._known[key]


class _Trial:
    """A product like the given one, of random numbers."""

    def __init__(
        self, product: Tensor, rows: int, graph: int, compute: Callable[[CGraph], int]
    ) -> None:
        self._compute = compute
        self._graph = CGraph.from_buffer_copy(ctypes.string_at(graph, ctypes.sizeof(CGraph)))
        self._product = Tensor.from_buffer_copy(product)
        self._weight = copy_of(product.src[0])
        self._input = Tensor()
        self._input.type = _F32
        random = np.random.default_rng(rows)
        columns = int(self._weight.ne[0])
        self._bytes = _random_weight(self._weight.type, rows * self._weight.nb[1], random)
        self._numbers = _aligned(4 * columns * _MOST).view(np.float32).reshape(_MOST, columns)
        self._numbers[:] = random.standard_normal((_MOST, columns), np.float32)
        self._result = _aligned(4 * rows * _MOST).view(np.float32).reshape(_MOST, rows)
        _shape(self._weight, (columns, rows), self._weight.nb[1], self._bytes)
        self._product.view_src = self._weight.view_src = None
        self._product.src[0] = ctypes.addressof(self._weight)
        self._product.src[1] = ctypes.addressof(self._input)
        self._nodes = (ctypes.c_uint64 * 1)(ctypes.addressof(self._product))
        self._graph.nodes, self._graph.n_nodes = ctypes.addressof(self._nodes), 1

    def width(self) -> int:
        singles = np.concatenate([self._computed(at, 1) for at in range(_MOST)])
        for width in range(2, _MOST + 1):
            if not np.array_equal(self._computed(0, width), singles[:width]):
                return width - 1
        return _MOST

    def _computed(self, first: int, count: int) -> npt.NDArray[np.uint32]:
        """Bits of the product with `count` rows."""
        numbers, result = self._numbers[first:], self._result
        _shape(self._input, (numbers.shape[1], count), numbers.strides[0], numbers)
        _shape(self._product, (result.shape[1], count), result.strides[0], result)
        if self._compute(self._graph) != STATUS_SUCCESS:
            return np.empty(0, np.uint32)
        bits: npt.NDArray[np.uint32] = result[:count].view(np.uint32).copy()
        return bits


def _shape(tensor: Tensor, ne: tuple[int, int], row_bytes: int, array: npt.NDArray[Any]) -> None:
    tensor.ne[:] = (*ne, 1, 1)
    if tensor.type == _F32:
        tensor.nb[0] = 4
    tensor.nb[1] = row_bytes
    tensor.nb[2] = tensor.nb[3] = ne[1] * row_bytes
    tensor.data = array.ctypes.data


def _random_weight(kind: int, nbytes: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Bytes of a weight whose numbers are finite in every type."""
    found = _aligned(nbytes)
    if kind == _F16:
        found.view(np.float16)[:] = random.standard_normal(nbytes // 2, np.float32)
    elif kind in (_F32, _BF16):
        numbers = random.standard_normal(nbytes // (4 if kind == _F32 else 2), np.float32)
        halves = numbers.view(np.uint16)
        found.view(np.uint16)[:] = halves if kind == _F32 else halves[1::2]
    else:
        # Without this bit no scale of a block is infinite or no number, wherever it lies.
        found[:] = random.integers(0, 256, nbytes, np.uint8) & 0xBF
    return found


def _aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    memory = np.zeros(nbytes + _ALIGNMENT, np.uint8)
    skip = -int(memory.ctypes.data) % _ALIGNMENT
    return memory[skip : skip + nbytes]
