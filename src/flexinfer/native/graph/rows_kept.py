"""Nodes of several rows cut into private copies, so that each row comes out as it would alone.

Which kernel computes a product, and with it the bits, depends on how many rows it has, and the
order of attention's sums on the rows and on the cells that it looks at. So products are cut into
as few rows as are computed like one, and attention into single rows, each with the cells that the
cache would have shown it alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from flexinfer.native.graph.nodes import copy_of, operation, viewed
from flexinfer.native.mirror import Tensor

# llama.cpp shows attention a multiple of so many cells (``llama_kv_cache::get_n_kv``).
_CELLS = 256
_F16 = 1

# How many rows of the product at an address are computed as one row is.
Width = Callable[[Tensor], int]


class RowsKept:
    """The cuts of one graph, whose rows are tokens of one sequence, one after the other.

    Args:
        width: asked for products of a matrix, whose kernels depend on the type.
    """

    def __init__(self, width: Width) -> None:
        self._width = width
        self._private: list[Tensor] = []
        self._masks: dict[int, _Mask] = {}

    def __repr__(self) -> str:
        return f"<RowsKept {len(self._private)} tensors>"

    def pieces(self, address: int, tokens: int) -> Sequence[int]:
        """What computes the node at `address` row by row: itself, or copies of it.

        Args:
            tokens: of the batch.
        """
        node = Tensor.from_address(address)
        if node.op == operation("MUL_MAT"):
            return self._product(node, address, tokens)
        if node.op == operation("MUL_MAT_ID"):
            # A token's own experts, wherever the others' rows go.
            return self._cut(address, {address: 2, node.src[1]: 2, node.src[2]: 1}, 1)
        if node.op == operation("FLASH_ATTN_EXT"):
            return self._attention(node, address)
        return (address,)

    def begin(self) -> None:
        """Read the masks of this pass, which are inputs: each row sees the cells up to its own."""
        for mask in self._masks.values():
            mask.aim()

    def _product(self, node: Tensor, address: int, tokens: int) -> Sequence[int]:
        matrix = node.ne[2] == node.ne[3] == 1
        along = 1 if matrix else _dimension_of(tokens, node)
        if node.ne[along] < 2:
            return (address,)
        cut = {address: along, node.src[1]: along}
        if along == 2 and Tensor.from_address(node.src[0]).ne[2] == tokens:
            cut[node.src[0]] = along  # each token has a matrix of its own
        return self._cut(address, cut, self._width(node) if matrix else 1)

    def _attention(self, node: Tensor, address: int) -> Sequence[int]:
        query, mask = node.src[0], node.src[3]
        if Tensor.from_address(query).ne[3] > 1 or Tensor.from_address(query).ne[1] < 2:
            return (address,)
        cut = {address: 2, query: 1}
        if not mask:
            return self._cut(address, cut, 1)
        root = _input_of(mask)
        known = self._masks.setdefault(root, _Mask(root)) if root else None
        found = self._cut(address, cut | {mask: 1}, 1)
        for row, piece in enumerate(found):
            if known is not None:
                known.add(row, self._own(Tensor.from_address(piece), (1, 2)))
        return found

    def _cut(self, address: int, along: dict[int, int], width: int) -> Sequence[int]:
        """Copies of a node over at most `width` rows each.

        Args:
            along: the dimension of rows of the node itself and of each source that has rows.
        """
        rows = Tensor.from_address(address).ne[along[address]]
        if rows <= width:
            return (address,)
        found = []
        for first in range(0, rows, width):
            copies = {source: _slice(source, d, first, width) for source, d in along.items()}
            piece = copies[address]
            for number, source in enumerate(piece.src):
                if source in copies:
                    piece.src[number] = ctypes.addressof(copies[source])
            self._private += copies.values()
            found.append(ctypes.addressof(piece))
        return found

    def _own(self, piece: Tensor, sources: tuple[int, ...]) -> Tensor:
        """`piece`, with copies of its own of some sources."""
        for number in sources:
            copy = copy_of(piece.src[number])
            piece.src[number] = ctypes.addressof(copy)
            self._private.append(copy)
        return piece


class _Mask:
    """A mask that llama.cpp fills before a pass, and the attention of each of its rows."""

    def __init__(self, root: int) -> None:
        self._mask = Tensor.from_address(root)
        # Of each row: the lengths of keys, values and mask.
        self._lengths: list[tuple[int, Tensor, int]] = []

    def add(self, row: int, piece: Tensor) -> None:
        keys, values, mask = (Tensor.from_address(piece.src[n]) for n in (1, 2, 3))
        self._lengths += [(row, keys, 1), (row, values, 1), (row, mask, 0)]

    def aim(self) -> None:
        shown = int(self._mask.ne[0])
        alone = self._alone(shown)
        for row, tensor, dimension in self._lengths:
            tensor.ne[dimension] = alone[row]

    def _alone(self, shown: int) -> list[int]:
        """How many cells each row would be shown alone."""
        rows = 1 + max(row for row, _, _ in self._lengths)
        alone = [min(-(-(cell + 1) // _CELLS) * _CELLS, shown) for cell in self._last(rows)]
        # Where cells are used again the last one tells nothing: all of them are shown, always.
        return alone if alone[-1] == shown else [shown] * rows

    def _last(self, rows: int) -> list[int]:
        """The last cell that each row sees."""
        mask = self._mask
        kind = np.float16 if mask.type == _F16 else np.float32
        buffer = (ctypes.c_char * (rows * mask.nb[1])).from_address(mask.data)
        numbers = np.ndarray((rows, mask.ne[0]), kind, buffer, strides=(mask.nb[1], mask.nb[0]))
        seen = numbers > -np.inf
        return [int(line.nonzero()[0][-1]) if line.any() else 0 for line in seen]


def _dimension_of(tokens: int, product: Tensor) -> int:
    """The dimension of a product in which its rows are tokens and not heads."""
    found = [d for d in (1, 2) if product.ne[d] == tokens]
    if len(found) == 1:
        return found[0]
    source = Tensor.from_address(product.src[0])
    stored = Tensor.from_address(viewed(product.src[0])).op == operation("NONE")
    if not stored:
        # What was computed before has a matrix for each token.
        return 2 if source.ne[2] == tokens else 1
    # One weight for all heads; those of the cache are views.
    return 2 if source.ne[2] == 1 and not source.view_src else 1


def _slice(source: int, dimension: int, first: int, width: int) -> Tensor:
    copy = copy_of(source)
    copy.data += first * copy.nb[dimension]
    copy.ne[dimension] = min(width, copy.ne[dimension] - first)
    return copy


def _input_of(mask: int) -> int:
    """The input that a mask is, or is a view or a conversion of; 0 where it is computed."""
    converted = {operation("CPY"), operation("VIEW"), operation("RESHAPE")}
    tensor = Tensor.from_address(mask)
    while tensor.op in converted and tensor.src[0]:
        mask = tensor.src[0]
        tensor = Tensor.from_address(mask)
    return mask if tensor.op == operation("NONE") else 0
