"""How fast this processor multiplies: one `MUL_MAT` per quantisation type, from memory.

The probe's weight is larger than a processor's caches, so the rate is that of decoding: bytes of
weights per second for one row.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from flexinfer.gguf.types import QuantType
from flexinfer.memory.pages import Arena
from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.library import Library, library
from flexinfer.native.mirror import CGraph, InitParams, Tensor
from flexinfer.sizes import ALIGNMENT

# Larger than the last cache of the processors that this was tried on.
WEIGHT_BYTES = 48 << 20
# Bytes for the vector and its product; and for a context, which holds descriptions only.
_SCRATCH = 1 << 20
_DESCRIPTIONS = 1 << 20
# Columns of the weight, a whole number of blocks of every type; rows come in so many at a time.
_ROW = 4096
_ROWS_STEP = 64
# The fastest counts: others were disturbed.
_REPEATS = 4


def compute_rates(
    types: Iterable[QuantType], threads: int, weight_bytes: int = WEIGHT_BYTES
) -> dict[str, float]:
    """Bytes of weights per second for one row, by name of the type.

    Takes about 25 ms a type and `weight_bytes` of memory, which is given back.
    """
    native = library()
    backend = InnerBackend(native)
    backend.set_threads(threads)
    arena = Arena(weight_bytes + _SCRATCH)
    try:
        # Zeros are valid blocks of every type, and no kernel looks at the values.
        # Touched once, so that each page is a page of its own.
        arena.view(0, arena.nbytes)[::ALIGNMENT] = bytes(-(-arena.nbytes // ALIGNMENT))
        return {kind.name: _rate(native, backend, arena, kind, weight_bytes) for kind in types}
    finally:
        arena.close()
        backend.free()


def _rate(
    native: Library,
    backend: InnerBackend,
    arena: Arena,
    kind: QuantType,
    weight_bytes: int,
) -> float:
    row_bytes = _ROW // kind.block * kind.nbytes
    rows = weight_bytes // row_bytes // _ROWS_STEP * _ROWS_STEP
    context = native.ggml_init(InitParams(_DESCRIPTIONS, None, True))
    try:
        weight = native.ggml_new_tensor_4d(context, kind.id, _ROW, rows, 1, 1)
        vector = native.ggml_new_tensor_4d(context, 0, _ROW, 1, 1, 1)
        product = native.ggml_mul_mat(context, weight, vector)
        graph = native.ggml_new_graph_custom(context, 8, False)
        native.ggml_build_forward_expand(graph, product)
        scratch = arena.address + arena.nbytes - _SCRATCH
        Tensor.from_address(weight).data = arena.address
        Tensor.from_address(vector).data = scratch
        Tensor.from_address(product).data = scratch + 4 * _ROW
        return rows * row_bytes / _best_time(backend, CGraph.from_address(graph))
    finally:
        native.ggml_free(context)


def _best_time(backend: InnerBackend, graph: CGraph) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        backend.compute(graph)
        times.append(time.perf_counter() - began)
    return min(times)
