"""Which kernels a model is computed with: those that are faster here, everything in memory.

The choice depends on file and processor, never on the budget: other kernels give other bits, and
who changes the budget does not want another answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.estimate import estimate_weights
from flexinfer.gguf.mirrors import Mirror
from flexinfer.machine.machine import Machine
from flexinfer.machine.processor import processor_name
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.by_type import side_by_side, work_by_type
from flexinfer.rates.cache_file import Remembered
from flexinfer.rates.type_rates import Product, TypeRates

# What the two are compared by: tokens of a prompt and of an answer.
PROMPT, ANSWER = 512, 128
# Packed kernels have to be faster by more than this: probes differ by as much.
_TIE = 0.05
# A smaller model is computed in no time: nothing is measured, and it is plain.
_SMALLEST = 64 << 20


def kernels_for(
    catalogue: Catalogue,
    machine: Machine,
    repack: bool | None,
    mirrors: Sequence[Mirror] = (),
) -> Kernels:
    """The set that was asked for with `repack`, else the faster one on all cores of the machine.

    Measured once, within half a second, and remembered for a model's files and the processor, so
    that it does not change from one day to the next, nor with how many threads somebody asks for.
    Of the `mirrors` packed ones are for one set only.

    Raises:
        RequestError: the other one was asked for.
    """
    packed = next((mirror for mirror in mirrors if mirror.packed), None)
    if packed is not None:
        if repack is False:
            raise RequestError(
                f"{packed.paths[0]} is packed for kernels that are not used without repacking, "
                "nor with workers; leave it out, or let weights be repacked"
            )
        return Kernels.PACKED
    if repack is not None:
        return Kernels.PACKED if repack else Kernels.PLAIN
    cores = machine.cores
    work = work_by_type(estimate_weights(catalogue, cores), catalogue.types)
    if sum(work.values()) < _SMALLEST:
        return Kernels.PLAIN
    memory, key = Remembered(), _key(catalogue, cores)
    known = (memory.get(key) or {}).get("kernels")
    try:
        chosen = Kernels(known)
    except ValueError:
        rates = side_by_side(work, cores)
        chosen = faster(work, rates[Kernels.PLAIN], rates[Kernels.PACKED])
    # Also what was known: as long as a model is used it is not measured again.
    memory.put(key, {"kernels": chosen.value})
    return chosen


def faster(
    work: Mapping[Product, int],
    plain: Mapping[str, TypeRates],
    packed: Mapping[str, TypeRates],
) -> Kernels:
    """The set with the lower time for a prompt and an answer; where they tie, plain.

    Args:
        work: bytes of weights that one token uses, by type.
        plain, packed: rates by name of the product; those that are not there count in neither.
    """
    # What is not packed is computed in the same way: only chance tells the two probes apart.
    packed = {name: found if found.packing else plain[name] for name, found in packed.items()}
    gain = _seconds(work, plain) / _seconds(work, packed)
    return Kernels.PACKED if gain > 1.0 + _TIE else Kernels.PLAIN


def _key(catalogue: Catalogue, cores: int) -> str:
    """Of a model on this processor, in what is remembered."""
    return f"kernels of {catalogue.form} {cores} cores of {processor_name()}"


def _seconds(work: Mapping[Product, int], rates: Mapping[str, TypeRates]) -> float:
    return sum(
        PROMPT * nbytes / rates[kind.name].rows + ANSWER * nbytes / rates[kind.name].row
        for kind, nbytes in work.items()
        if kind.name in rates
    )
