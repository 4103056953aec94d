"""What this processor does with each quantisation, probed once and remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict

from flexinfer.gguf.types import QuantType
from flexinfer.machine.processor import processor_name
from flexinfer.planning.kernels import Kernels
from flexinfer.planning.weights import ON_DEMAND, Use, Weight
from flexinfer.rates.cache_file import Remembered
from flexinfer.rates.type_rates import Product, TypeRates

# So many types are probed; the others of a model have little work.
_TYPES = 3
# How often each set is measured when both are compared.
_TURNS = 2


def product(weight: Weight, types: Mapping[str, QuantType]) -> Product:
    """What is computed with a weight; `types` are by its name."""
    return Product(types[weight.name], weight.use is Use.EXPERTS)


def work_by_type(weights: Sequence[Weight], types: Mapping[str, QuantType]) -> dict[Product, int]:
    """Bytes that one token's computation goes over, by type."""
    work: dict[Product, int] = {}
    for weight in weights:
        if weight.use not in ON_DEMAND:
            kind = product(weight, types)
            work[kind] = work.get(kind, 0) + weight.token_bytes
    return work


def main_products(work: Mapping[Product, int]) -> list[Product]:
    """Those with the most work, which are worth a probe."""
    return sorted(work, key=lambda kind: -work[kind])[:_TYPES]


def type_rates(work: Mapping[Product, int], cores: int, kernels: Kernels) -> dict[str, TypeRates]:
    """Rates by name of the products with the most work, remembered for a month or measured."""
    memory = Remembered()
    largest = main_products(work)
    rates = {}
    for kind in largest:
        known = _recall(memory.get(_key(kind.name, cores, kernels)) or {})
        if known is not None:
            rates[kind.name] = known
    missing = [kind for kind in largest if kind.name not in rates]
    if missing:
        from flexinfer.rates.processor import measure_types  # late: it loads the native library

        for name, found in measure_types(missing, cores, kernels).items():
            rates[name] = found
            memory.put(_key(name, cores, kernels), asdict(found))
    return rates


def side_by_side(work: Mapping[Product, int], cores: int) -> dict[Kernels, dict[str, TypeRates]]:
    """Rates with each set of kernels, measured in turns now, for a comparison; remembered, too.

    What was measured at another time, beside other work, does not compare.
    """
    from flexinfer.rates.processor import measure_types  # late: it loads the native library

    found: dict[Kernels, dict[str, TypeRates]] = {kernels: {} for kernels in Kernels}
    for _ in range(_TURNS):
        for kernels, rates in found.items():
            for name, seen in measure_types(main_products(work), cores, kernels).items():
                rates[name] = seen.best(rates.get(name, seen))
    memory = Remembered()
    for kernels, rates in found.items():
        for name, best in rates.items():
            memory.put(_key(name, cores, kernels), asdict(best))
    return found


def packing_rate(work: Mapping[Product, int], rates: Mapping[str, TypeRates], cores: int) -> float:
    """Bytes/s of a model's weights at which `cores` processors pack; 0: nothing is packed."""
    packed = sum(
        nbytes / rates[kind.name].packing
        for kind, nbytes in work.items()
        if kind.name in rates and rates[kind.name].packing
    )
    return sum(work.values()) * cores / packed if packed else 0.0


def _recall(entry: Mapping[str, object]) -> TypeRates | None:
    with suppress(KeyError, TypeError, ValueError):
        row, rows, packing = (float(entry[name]) for name in ("row", "rows", "packing"))  # type: ignore[arg-type]
        if 0 < row < math.inf and 0 < rows < math.inf and 0 <= packing < math.inf:
            return TypeRates(row, rows, packing)
    return None


def _key(name: str, cores: int, kernels: Kernels) -> str:
    """Of a product, in what is remembered."""
    return f"{name} {kernels.value} {cores} cores of {processor_name()}"
