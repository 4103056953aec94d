"""Seconds that a pass over a model takes to compute, by the number of its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flexinfer.gguf.types import QUANT_TYPES, QuantType
from flexinfer.machine.processor import processor_name
from flexinfer.planning.kernels import Kernels
from flexinfer.planning.many import RowTimes
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Weight
from flexinfer.rates.by_type import main_products, work_by_type
from flexinfer.rates.cache_file import Remembered
from flexinfer.rates.type_rates import Product

# Numbers of rows that are measured; between them times lie on lines. From 64 rows on ggml attends
# to a cache of f16 in tiles, which go over what others see as well: no line leads there.
ROWS = (1, 2, 4, 8, 16, 32, 63, 64)
# Two probes of one thing differ by less on a machine that does nothing else.
_NOISE = 1.15
# The role of a weight that takes in what attention gives.
_ATTENDS = "attn_output"


def row_times(
    weights: Sequence[Weight],
    types: Mapping[str, QuantType],
    rates: Rates,
    cores: int,
    kv_types: tuple[int, int],
    seen: Mapping[int, float],
) -> RowTimes:
    """Of a model's main types and attention, remembered for a month or measured within a second.

    What one row takes is that of `rates`; the probe says how much more rows add, and what passes
    took corrects it.

    Args:
        kv_types: ggml's numbers of the types of K and V.
        seen: seconds that passes of this model took to compute, by their rows.
    """
    if rates.source == "assumed":
        # Of a model for which nothing is measured: computing it takes no time that matters.
        return RowTimes(((1, rates.compute_s),))
    work = work_by_type(weights, types)
    kinds = main_products(work)
    paces = _paces(kinds, cores, rates.kernels)
    products = [sum(work[kind] * paces[kind.name][at] for kind in kinds) for at in range(len(ROWS))]
    queries = query_elements(weights, types)
    attention = _attention(kv_types, cores) if queries else ()
    total = undisturbed(with_attention(products, queries, attention))
    probed = added(rates.compute_s, total)
    # Nothing is computed here where all layers are elsewhere.
    return corrected(probed, seen if rates.compute_s and total[0] else {})


def query_elements(weights: Sequence[Weight], types: Mapping[str, QuantType]) -> int:
    """Elements of a row's queries in all layers: as wide as what projects their outputs.

    0 for a model without attention.
    """
    return sum(
        weight.row_bytes // types[weight.name].nbytes * types[weight.name].block
        for weight in weights
        if weight.role == _ATTENDS
    )


def with_attention(products: Sequence[float], queries: int, paces: Sequence[float]) -> list[float]:
    """Seconds of `products` by numbers of rows, and of attending with so many elements of queries.

    `paces` are seconds an element; none where nothing attends.
    """
    attending = [queries * pace for pace in paces] or [0.0] * len(products)
    return [sum(both) for both in zip(products, attending, strict=True)]


def added(one: float, probed: Sequence[float]) -> RowTimes:
    """What more rows add to the seconds of `one`, by a probe of each of `ROWS`.

    Where one row takes longer in a pass than in a probe, it is for what a pass does besides, and
    that takes as long with more rows.
    """
    seconds = (one + more - probed[0] for more in probed)
    return RowTimes(tuple(zip(ROWS, seconds, strict=True)))


def undisturbed(seconds: Sequence[float]) -> list[float]:
    """`seconds` by rising numbers of rows, without those that more rows took less than.

    What disturbs a probe only ever adds to it.
    """
    return [min(seconds[at:]) for at in range(len(seconds))]


def corrected(probed: RowTimes, seen: Mapping[int, float]) -> RowTimes:
    """`probed` drawn through what was seen: between such numbers of rows its shape is kept.

    Few rows never take longer than many.
    """
    known = sorted((rows, seconds / probed.seconds(rows)) for rows, seconds in seen.items())
    # A probe and passes may disagree by more than rows do: one row stays what it is.
    factors = [(1, 1.0), *(one for one in known if one[0] > 1)]
    points: list[tuple[int, float]] = []
    for rows in sorted({*dict(probed.points), *dict(factors)}):
        seconds = probed.seconds(rows) * _between(factors, rows)
        points.append((rows, max(seconds, points[-1][1] if points else 0.0)))
    return RowTimes(tuple(points))


def _between(factors: Sequence[tuple[int, float]], rows: int) -> float:
    """On the line through the two nearest factors; beyond the last one that."""
    before = factors[0]
    for point in factors:
        if rows <= point[0]:
            share = (rows - before[0]) / max(point[0] - before[0], 1)
            return before[1] + share * (point[1] - before[1])
        before = point
    return before[1]


def _paces(kinds: Sequence[Product], cores: int, kernels: Kernels) -> dict[str, tuple[float, ...]]:
    """Seconds a byte of weights, by name of the type, for each of `ROWS`."""
    memory = Remembered()
    known = {kind.name: _recall(memory.get(_key(kind.name, cores, kernels))) for kind in kinds}
    found = {name: seconds for name, seconds in known.items() if seconds}
    missing = [kind for kind in kinds if kind.name not in found]
    if missing:
        from flexinfer.rates.processor import measure_rows  # late: it loads the native library

        for name, seconds in measure_rows(missing, cores, kernels, ROWS).items():
            found[name] = seconds
            _keep(memory, _key(name, cores, kernels), seconds)
    return found


def _attention(kv_types: tuple[int, int], cores: int) -> tuple[float, ...]:
    """Seconds an element of a row's queries, for each of `ROWS`."""
    memory = Remembered()
    keys, values = (QUANT_TYPES[kind].name for kind in kv_types)
    key = f"attention {keys} {values} {cores} cores of {processor_name()}"
    known = _recall(memory.get(key))
    if not known:
        from flexinfer.rates.attention import measure_attention  # late: as above

        known = measure_attention(kv_types, cores, ROWS)
        _keep(memory, key, known)
    return known


def _keep(memory: Remembered, key: str, seconds: tuple[float, ...]) -> None:
    """Remember a probe, but for one that was clearly disturbed, which is for now only."""
    if all(a <= _NOISE * b for a, b in zip(seconds, undisturbed(seconds), strict=True)):
        memory.put(key, {"seconds": list(seconds)})


def _recall(entry: Mapping[str, Any] | None) -> tuple[float, ...]:
    seconds = (entry or {}).get("seconds")
    if not isinstance(seconds, list) or len(seconds) != len(ROWS):
        return ()
    good = all(isinstance(one, float) and 0 < one < math.inf for one in seconds)
    return tuple(seconds) if good else ()


def _key(name: str, cores: int, kernels: Kernels) -> str:
    """Of a type, in what is remembered."""
    return f"rows of {name} {kernels.value} {cores} cores of {processor_name()}"
