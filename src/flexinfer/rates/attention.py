"""How long this processor attends: rows of a pass, each to cells of its own in one cache.

Attention multiplies no weights, so no rate of a type tells of it; yet each sequence brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.memory.pages import Arena, round_up
from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.library import Library, library
from flexinfer.native.mirror import CGraph, InitParams, Tensor
from flexinfer.native.timing import least_seconds
from flexinfer.sizes import ALIGNMENT

# Cells that a row sees: half a context of 256 tokens. Of longer texts passes tell.
CELLS = 128
# As grouped-query attention has them: four heads of queries share each head of the cache.
_WIDTH, _HEADS, _KV_HEADS = 128, 16, 4
# Elements of a row's queries.
QUERIES = _WIDTH * _HEADS
# llama.cpp pads masks to so many rows.
_MASK_STEP = 64
_F32, _F16 = 0, 1
_SEEN, _HIDDEN = b"\x00\x00", b"\x00\xfc"  # zero and minus infinity in f16
_DESCRIPTIONS = 1 << 20
# The fastest counts: others were disturbed.
_REPEATS = 3


def measure_attention(
    kv_types: tuple[int, int], threads: int, rows: Sequence[int]
) -> tuple[float, ...]:
    """Seconds an element of a row's queries, of a pass over so many rows, for each number.

    Takes about 0.2 s, and up to 33 MiB of memory for a cache of f32, which are given back.

    Args:
        kv_types: ggml's numbers of the types of K and V.
    """
    native = library()
    backend = InnerBackend(native)
    backend.set_threads(threads)
    try:
        return tuple(_seconds(native, backend, kv_types, n) / QUERIES for n in rows)
    finally:
        backend.free()


def _seconds(native: Library, backend: InnerBackend, kv_types: tuple[int, int], rows: int) -> float:
    """Of one layer's attention."""
    cells = rows * CELLS
    mask_rows = round_up(rows, _MASK_STEP)
    shapes = (
        (_F32, (_WIDTH, rows, _HEADS)),
        *((kind, (_WIDTH, cells, _KV_HEADS)) for kind in kv_types),
        (_F16, (cells, mask_rows, 1)),
    )
    context = native.ggml_init(InitParams(_DESCRIPTIONS, None, True))
    arena = Arena(sum(map(_room, shapes)) + 4 * QUERIES * rows)
    try:
        place, inputs = 0, []
        for kind, shape in shapes:
            tensor = native.ggml_new_tensor_4d(context, kind, *shape, 1)
            Tensor.from_address(tensor).data = arena.address + place
            inputs.append(tensor)
            place += _room((kind, shape))
        result = native.ggml_flash_attn_ext(context, *inputs, _WIDTH**-0.5, 0.0, 0.0)
        Tensor.from_address(result).data = arena.address + place
        mask = own_cells(rows) + _HIDDEN * (cells * (mask_rows - rows))
        arena.view(place - _room(shapes[-1]), len(mask))[:] = mask
        graph = native.ggml_new_graph_custom(context, 8, False)
        native.ggml_build_forward_expand(graph, result)
        nodes = CGraph.from_address(graph)
        backend.compute(nodes)  # its first touch of the cache is no part of a pass
        return least_seconds(lambda: backend.compute(nodes), _REPEATS)
    finally:
        arena.close()
        native.ggml_free(context)


def own_cells(rows: int) -> bytes:
    """The mask in f16 of rows of which each sees `CELLS` of its own."""
    return b"".join(
        _HIDDEN * (row * CELLS) + _SEEN * CELLS + _HIDDEN * ((rows - 1 - row) * CELLS)
        for row in range(rows)
    )


def _room(tensor: tuple[int, tuple[int, int, int]]) -> int:
    kind, (width, rows, matrices) = tensor
    quant = QUANT_TYPES[kind]
    return round_up(width // quant.block * quant.nbytes * rows * matrices, ALIGNMENT)
