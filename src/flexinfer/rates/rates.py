"""What drive and processor do for one model: probed where it matters, learned from its passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.types import QuantType
from flexinfer.machine.machine import fills_processors
from flexinfer.planning.kernels import Kernels
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import ON_DEMAND, Weight
from flexinfer.rates.by_type import packing_rate, product, type_rates, work_by_type
from flexinfer.rates.cache_file import Remembered
from flexinfer.rates.drives import CopyRates
from flexinfer.rates.passes import Observed
from flexinfer.reading.drive import open_drive
from flexinfer.reading.file_reader import open_reader, read_from
from flexinfer.reading.open_file import cached_fraction
from flexinfer.reading.reader import DriveUse, Reader

# Bytes of weights a second, where nobody measured; small models only.
_ASSUMED_COMPUTE = 10e9
# Computing with less takes no time that matters.
_SMALLEST = 64 << 20
# So much of a model in the page cache makes reading it from there faster than from the drive.
_CACHED = 0.95
# After a model's key: what passes of several rows took.
_ROWS = " by rows"
# A thread that packs what it read reads nothing meanwhile, longest while all processors compute:
# others have to keep the drive busy, in smaller pieces so that as many bytes are under way. A byte
# then takes as many times as long from the processors: what costs is asking, not bytes.
_PACKING = 2


def open_model(
    catalogue: Catalogue,
    drives: CopyRates,
    kernels: Kernels,
    *,
    resident: bool,
    lost: Callable[[str], None] = lambda line: None,
) -> Reader:
    """The reader of a model's files.

    Args:
        drives: with the model and its mirrors.
        kernels: whose weights are packed by the threads that read them, unless a copy has them so.
        resident: all of it will stay in memory.
        lost: is told in one line of a drive that fails and is left aside.
    """
    calls = _calls(kernels, drives)
    first = drives.copies[0].paths if drives.packed else catalogue.paths
    if resident and cached_fraction(first) > _CACHED:
        return open_reader((*first, *drives.plain), cached=True)
    return read_from(
        (
            open_drive(
                (*copy.paths, *drives.plain),
                threads=copy.rate.threads * calls,
                piece=copy.rate.piece // calls,
                rate=copy.rate.rate,
            )
            for copy in drives.copies
        ),
        lost=lost,
    )


def measure_rates(
    catalogue: Catalogue,
    weights: Sequence[Weight],
    drives: CopyRates,
    cores: int,
    kernels: Kernels,
    part: str = "",
) -> tuple[list[Weight], Rates]:
    """The weights with the time of each, and rates for this model on `cores` processors.

    Each type's rate comes from a probe, remembered for a month, so that whoever asks again gets the
    same plan; the sum of all comes from passes of the model within the last month, if there were
    any. The times of a model too small to matter are left out.

    Args:
        weights: of the catalogue, in any order.
        drives: taken as they are.
        kernels: that the model is computed with.
        part: names what of the model is computed here; "": all.
    """
    work = work_by_type(weights, catalogue.types)
    total = sum(work.values())
    if total < _SMALLEST:
        seconds = total / _ASSUMED_COMPUTE
        return list(weights), Rates(drives.rate, seconds, "assumed", kernels, drives=drives.shares)
    full = fills_processors(cores)
    rates = type_rates(work, cores, kernels)
    timed = time_each(weights, catalogue.types, {name: found.row for name, found in rates.items()})
    # Where no processor is spare, the thread that waits for a weight packs it.
    packing = 0.0 if drives.packed else packing_rate(work, rates, 1 if full else cores)
    asking = drives.cpu * _calls(kernels, drives) / cores if full else 0.0
    known = (Remembered().get(_key(catalogue, cores, kernels, part)) or {}).get("compute_s")
    if isinstance(known, float) and 0 < known < math.inf:
        return timed, Rates(drives.rate, known, "passes", kernels, packing, asking, drives.shares)
    seconds = sum(weight.compute_s for weight in timed)
    return timed, Rates(drives.rate, seconds, "probe", kernels, packing, asking, drives.shares)


def _calls(kernels: Kernels, drives: CopyRates) -> int:
    """By how much reads are more and smaller than the drive alone would have them."""
    return _PACKING if kernels is Kernels.PACKED and not drives.packed else 1


def time_each(
    weights: Sequence[Weight], types: Mapping[str, QuantType], rates: Mapping[str, float]
) -> list[Weight]:
    """The weights with the seconds that one token's work with each takes.

    Args:
        types: by name of the weight.
        rates: bytes/s by name of the product; others go at the average of those.
    """
    work = work_by_type(weights, types)
    known = {kind: nbytes for kind, nbytes in work.items() if kind.name in rates}
    pace = sum(nbytes / rates[kind.name] for kind, nbytes in known.items()) / sum(known.values())

    def seconds(weight: Weight) -> float:
        if weight.use in ON_DEMAND:
            return 0.0
        rate = rates.get(product(weight, types).name)
        return weight.token_bytes / rate if rate else weight.token_bytes * pace

    return [replace(weight, compute_s=seconds(weight)) for weight in weights]


def remember(
    catalogue: Catalogue,
    cores: int,
    kernels: Kernels,
    drives: CopyRates,
    observed: Observed,
    uses: Sequence[DriveUse],
    part: str = "",
) -> None:
    """Keep what passes of this model, or the same part of it, showed for the next time.

    `uses` is what each drive did.
    """
    if catalogue.nbytes < _SMALLEST:
        return
    key, seen = _key(catalogue, cores, kernels, part), observed.by_rows
    if observed.compute_s is not None:
        Remembered().put(key, {"compute_s": observed.compute_s})
    if seen:
        rows = remembered_rows(catalogue, cores, kernels, part) | seen
        Remembered().put(key + _ROWS, {str(each): seconds for each, seconds in rows.items()})
    if observed.drive is not None:
        drives.remember(observed.drive, uses)


def remembered_rows(
    catalogue: Catalogue, cores: int, kernels: Kernels, part: str = ""
) -> dict[int, float]:
    """Seconds that passes of this model took to compute within the last month, by their rows."""
    found = Remembered().get(_key(catalogue, cores, kernels, part) + _ROWS) or {}
    return {
        int(rows): seconds
        for rows, seconds in found.items()
        if rows.isdecimal() and isinstance(seconds, float) and 0 < seconds < math.inf
    }


def _key(catalogue: Catalogue, cores: int, kernels: Kernels, part: str) -> str:
    """Of a model, in what is remembered."""
    return f"{catalogue.form} {kernels.value} {cores} cores{part}"
