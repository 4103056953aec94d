"""How fast this processor multiplies and packs: one `MUL_MAT` per quantisation type, from memory.

The weight for one row is larger than a processor's caches, so the rate is that of decoding; that
for many rows is bound by computing, as a prompt is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flexinfer.gguf.types import QuantType
from flexinfer.memory.pages import Arena
from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.library import Library, library
from flexinfer.native.mirror import CGraph, InitParams, Tensor
from flexinfer.native.packing import Packer, Packing, packer
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.type_rates import TypeRates
from flexinfer.sizes import ALIGNMENT

# Larger than the last cache of the processors that this was tried on.
WEIGHT_BYTES = 48 << 20
# Many rows, and a weight of which they take milliseconds.
_MANY_ROWS = 64
_MANY_BYTES = 4 << 20
# Bytes for the rows and their product; and for a context, which holds descriptions only.
_SCRATCH = 4 << 20
_DESCRIPTIONS = 1 << 20
# Columns of the weight, a whole number of blocks of every type; rows come in so many at a time.
_COLUMNS = 4096
_ROWS_STEP = 64
# The fastest counts: others were disturbed.
_REPEATS = 4


def measure_types(
    types: Iterable[QuantType], threads: int, kernels: Kernels, weight_bytes: int = WEIGHT_BYTES
) -> dict[str, TypeRates]:
    """Rates by name of the type.

    Takes about 40 ms a type and `weight_bytes` of memory, which is given back.
    """
    native = library()
    packs = packer() if kernels is Kernels.PACKED else None
    backend = InnerBackend(native)
    backend.set_threads(threads)
    arena = Arena(weight_bytes + _SCRATCH)
    try:
        # Zeros are valid blocks of every type, and no kernel looks at the values.
        # Touched once, so that each page is a page of its own.
        arena.view(0, arena.nbytes)[::ALIGNMENT] = bytes(-(-arena.nbytes // ALIGNMENT))
        probe = _Probe(native, backend, arena, packs)
        return {kind.name: probe.rates(kind, weight_bytes) for kind in types}
    finally:
        arena.close()
        backend.free()


class _Probe:
    """Products of a weight at the beginning of an arena with rows at its end."""

    def __init__(
        self, native: Library, backend: InnerBackend, arena: Arena, packs: Packer | None
    ) -> None:
        self._native = native
        self._backend = backend
        self._arena = arena
        self._packs = packs

    def rates(self, kind: QuantType, weight_bytes: int) -> TypeRates:
        row = self._product(kind, weight_bytes, 1)
        many = self._product(kind, min(_MANY_BYTES, weight_bytes), _MANY_ROWS)
        return TypeRates(row, many, self._packing(kind, min(_MANY_BYTES, weight_bytes)))

    def _product(self, kind: QuantType, weight_bytes: int, rows: int) -> float:
        """Bytes of weights times rows a second."""
        native = self._native
        context = native.ggml_init(InitParams(_DESCRIPTIONS, None, True))
        try:
            weight, nbytes = self._weight(context, kind, weight_bytes)
            vectors = native.ggml_new_tensor_4d(context, 0, _COLUMNS, rows, 1, 1)
            product = native.ggml_mul_mat(context, weight, vectors)
            graph = native.ggml_new_graph_custom(context, 8, False)
            native.ggml_build_forward_expand(graph, product)
            self._mark(weight)
            scratch = self._arena.address + self._arena.nbytes - _SCRATCH
            Tensor.from_address(weight).data = self._arena.address
            Tensor.from_address(vectors).data = scratch
            Tensor.from_address(product).data = scratch + 4 * _COLUMNS * rows
            nodes = CGraph.from_address(graph)
            return nbytes * rows / _best_time(lambda: self._backend.compute(nodes))
        finally:
            native.ggml_free(context)

    def _packing(self, kind: QuantType, weight_bytes: int) -> float:
        """Bytes a second that one processor packs."""
        context = self._native.ggml_init(InitParams(_DESCRIPTIONS, None, True))
        try:
            weight, nbytes = self._weight(context, kind, weight_bytes)
            packing = self._packing_of(weight)
            if packing is None:
                return 0.0
            return nbytes / _best_time(lambda: packing.pack(self._arena.address, nbytes))
        finally:
            self._native.ggml_free(context)

    def _weight(self, context: int, kind: QuantType, weight_bytes: int) -> tuple[int, int]:
        """A tensor without data, and its bytes."""
        row_bytes = _COLUMNS // kind.block * kind.nbytes
        rows = weight_bytes // row_bytes // _ROWS_STEP * _ROWS_STEP
        tensor = self._native.ggml_new_tensor_4d(context, kind.id, _COLUMNS, rows, 1, 1)
        return tensor, rows * row_bytes

    def _packing_of(self, weight: int) -> Packing | None:
        return self._packs.packing(weight) if self._packs is not None else None

    def _mark(self, weight: int) -> None:
        packing = self._packing_of(weight)
        if packing is not None:
            tensor = Tensor.from_address(weight)
            tensor.buffer, tensor.extra = packing.buffer, packing.extra


def _best_time(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
