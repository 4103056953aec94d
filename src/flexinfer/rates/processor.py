"""How fast this processor multiplies and packs: one product per quantisation type, from memory.

The weight for one row is larger than a processor's caches, so the rate is that of decoding; that
for many rows is bound by computing, as a prompt is. Experts are timed by `MUL_MAT_ID`, whose packed
kernels take one row at a time where those of `MUL_MAT` take several.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from flexinfer.gguf.types import QuantType
from flexinfer.memory.pages import Arena, round_up
from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.library import Library, library
from flexinfer.native.mirror import CGraph, InitParams, Tensor
from flexinfer.native.packing import Packer, Packing, packer
from flexinfer.native.timing import least_seconds
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.type_rates import Product, TypeRates
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
# Of experts a token goes over some; of a prompt's tokens half as many rows go to each of a few.
_USED = 8
_EXPERTS, _USED_OF_FEW = 4, 2
_F32, _I32 = 0, 26
# The fastest counts: others were disturbed.
_REPEATS = 3


def measure_types(
    products: Iterable[Product], threads: int, kernels: Kernels, weight_bytes: int = WEIGHT_BYTES
) -> dict[str, TypeRates]:
    """Rates by name of the product.

    Takes about 30 ms each and `weight_bytes` of memory, which is given back.
    """
    with _probing(threads, kernels, weight_bytes) as probe:
        return {product.name: probe.rates(product, weight_bytes) for product in products}


def measure_rows(
    products: Iterable[Product], threads: int, kernels: Kernels, rows: Sequence[int]
) -> dict[str, tuple[float, ...]]:
    """Seconds a byte that a token uses, of a pass over so many rows, by name of the product.

    Takes about 0.2 s each.
    """
    with _probing(threads, kernels, WEIGHT_BYTES) as probe:
        return {
            product.name: tuple(n / probe.rate(product, _bytes_for(n), n) for n in rows)
            for product in products
        }


def _bytes_for(rows: int) -> int:
    """A weight that does not stay in a cache for few rows, and takes milliseconds for many."""
    return max(WEIGHT_BYTES // rows, _MANY_BYTES)


@contextmanager
def _probing(threads: int, kernels: Kernels, weight_bytes: int) -> Iterator[_Probe]:
    native = library()
    backend = InnerBackend(native)
    backend.set_threads(threads)
    arena = Arena(weight_bytes + _SCRATCH)
    try:
        # Zeros are valid blocks of every type, and no kernel looks at the values.
        # Touched once, so that each page is a page of its own.
        arena.view(0, arena.nbytes)[::ALIGNMENT] = bytes(-(-arena.nbytes // ALIGNMENT))
        packs = packer() if kernels is Kernels.PACKED else None
        if packs is not None:
            packs.listen()
        yield _Probe(native, backend, arena, packs)
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

    def rates(self, product: Product, weight_bytes: int) -> TypeRates:
        many_bytes = min(_MANY_BYTES, weight_bytes)
        if product.routed:
            row = self._time(product, weight_bytes, _USED, 1, _USED)
            many = self._time(product, many_bytes, _EXPERTS, _MANY_ROWS, _USED_OF_FEW)
        else:
            row = self._time(product, weight_bytes, 1, 1, 1)
            many = self._time(product, many_bytes, 1, _MANY_ROWS, 1)
        # What streams comes from memory: packing what is in a cache goes at twice the rate.
        return TypeRates(row, many, self._packing(product.kind, weight_bytes))

    def rate(self, product: Product, weight_bytes: int, rows: int) -> float:
        """Bytes that a row uses times rows a second, in passes of so many rows."""
        if product.routed:
            return self._time(product, weight_bytes, _EXPERTS, rows, _USED_OF_FEW)
        return self._time(product, weight_bytes, 1, rows, 1)

    def _time(
        self, product: Product, weight_bytes: int, matrices: int, rows: int, used: int
    ) -> float:
        """Bytes of weights times rows a second, where each row goes over `used` of `matrices`."""
        native = self._native
        context = native.ggml_init(InitParams(_DESCRIPTIONS, None, True))
        try:
            weight, nbytes = self._weight(context, product.kind, weight_bytes, matrices)
            place = self._arena.address + self._arena.nbytes - _SCRATCH
            vectors = native.ggml_new_tensor_4d(context, _F32, _COLUMNS, 1, rows, 1)
            if product.routed:
                ids = native.ggml_new_tensor_4d(context, _I32, used, rows, 1, 1)
                chosen = [at % matrices for at in range(used * rows)]
                place = self._fill(ids, place, chosen)
                result = native.ggml_mul_mat_id(context, weight, vectors, ids)
            else:
                vectors = native.ggml_new_tensor_4d(context, _F32, _COLUMNS, rows, 1, 1)
                result = native.ggml_mul_mat(context, weight, vectors)
            graph = native.ggml_new_graph_custom(context, 8, False)
            native.ggml_build_forward_expand(graph, result)
            self._mark(weight)
            Tensor.from_address(weight).data = self._arena.address
            Tensor.from_address(vectors).data = place
            Tensor.from_address(result).data = place + 4 * _COLUMNS * rows
            nodes = CGraph.from_address(graph)
            done = nbytes // matrices * used * rows
            return done / least_seconds(lambda: self._backend.compute(nodes), _REPEATS)
        finally:
            native.ggml_free(context)

    def _fill(self, tensor: int, place: int, numbers: list[int]) -> int:
        """Put the tensor with these numbers at an address; returns where there is room after it."""
        Tensor.from_address(tensor).data = place
        content = struct.pack(f"{len(numbers)}i", *numbers)
        self._arena.view(place - self._arena.address, len(content))[:] = content
        return place + round_up(len(content), ALIGNMENT)

    def _packing(self, kind: QuantType, weight_bytes: int) -> float:
        """Bytes a second that one processor packs."""
        context = self._native.ggml_init(InitParams(_DESCRIPTIONS, None, True))
        try:
            weight, nbytes = self._weight(context, kind, weight_bytes)
            packing = self._packing_of(weight)
            if packing is None:
                return 0.0
            return nbytes / least_seconds(
                lambda: packing.pack(self._arena.address, nbytes), _REPEATS
            )
        finally:
            self._native.ggml_free(context)

    def _weight(
        self, context: int, kind: QuantType, weight_bytes: int, matrices: int = 1
    ) -> tuple[int, int]:
        """A tensor without data, and its bytes."""
        row_bytes = _COLUMNS // kind.block * kind.nbytes
        rows = max(weight_bytes // matrices // row_bytes // _ROWS_STEP, 1) * _ROWS_STEP
        tensor = self._native.ggml_new_tensor_4d(context, kind.id, _COLUMNS, rows, matrices, 1)
        return tensor, matrices * rows * row_bytes

    def _packing_of(self, weight: int) -> Packing | None:
        return self._packs.packing(weight) if self._packs is not None else None

    def _mark(self, weight: int) -> None:
        packing = self._packing_of(weight)
        if packing is not None:
            tensor = Tensor.from_address(weight)
            tensor.buffer, tensor.extra = packing.buffer, packing.extra
