"""What drive and processor do for one model: probed where the model is large enough to matter, and
remembered from its passes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.types import QuantType
from flexinfer.planning.plan import Rates
from flexinfer.planning.weights import ON_DEMAND, Weight
from flexinfer.rates.cache_file import Remembered
from flexinfer.rates.drive import ASSUMED_RATE, DriveRate, drive_rate, remember_drive
from flexinfer.rates.passes import Observed
from flexinfer.reading.file_reader import DEFAULT_PIECE, DEFAULT_THREADS, open_reader
from flexinfer.reading.open_file import cached_fraction
from flexinfer.reading.reader import Reader

# Bytes of weights a second, where nobody measured; small models only.
_ASSUMED_COMPUTE = 10e9
_TYPES = 3
# Computing with less takes no time that matters.
_SMALLEST = 64 << 20
# So much of a model in the page cache makes reading it from there faster than from the drive.
_CACHED = 0.95


def drive_for(catalogue: Catalogue) -> DriveRate:
    """The rate of the drive that holds the model; assumed for one that is not on this machine."""
    if all(os.path.exists(path) for path in catalogue.paths):
        return drive_rate(catalogue.paths)
    return DriveRate(ASSUMED_RATE, DEFAULT_THREADS, DEFAULT_PIECE, "assumed")


def open_model(catalogue: Catalogue, drive: DriveRate, *, resident: bool) -> Reader:
    """The reader of a model's files; `resident`: all of it will stay in memory."""
    paths = catalogue.paths
    if resident and cached_fraction(paths) > _CACHED:
        return open_reader(paths, cached=True)
    return open_reader(paths, threads=drive.threads, piece=drive.piece)


def measure_rates(
    catalogue: Catalogue, weights: Sequence[Weight], drive: DriveRate, cores: int
) -> Rates:
    """Rates for this model on `cores` processors; `drive` is taken as it is.

    From passes of the model within the last month, or from a probe of the processor with the
    model's main quantisations.
    """
    work = _work(catalogue, weights)
    total = sum(work.values())
    if total < _SMALLEST:
        return Rates(drive.rate, total / _ASSUMED_COMPUTE, "assumed")
    known = (Remembered().get(_key(catalogue, cores)) or {}).get("compute_s")
    if isinstance(known, float) and known > 0:
        return Rates(drive.rate, known, "passes")
    from flexinfer.rates.processor import compute_rates  # late: it loads the native library

    largest = sorted(work, key=lambda kind: -work[kind])[:_TYPES]
    rates = compute_rates(largest, cores)
    return Rates(drive.rate, seconds_a_token(work, rates), "probe")


def remember(catalogue: Catalogue, cores: int, drive: DriveRate, observed: Observed) -> None:
    """Keep what passes of this model showed, for the next time."""
    if catalogue.nbytes < _SMALLEST:
        return
    if observed.compute_s is not None:
        Remembered().put(_key(catalogue, cores), {"compute_s": observed.compute_s})
    if observed.drive is not None:
        remember_drive(catalogue.paths, replace(drive, rate=observed.drive, source="passes"))


def _key(catalogue: Catalogue, cores: int) -> str:
    """Of a model, in what is remembered: files that move stay the same model."""
    tensors = len(catalogue.tensors)
    return f"{catalogue.architecture} {catalogue.nbytes} bytes {tensors} tensors {cores} cores"


def seconds_a_token(work: Mapping[QuantType, int], rates: Mapping[str, float]) -> float:
    """Seconds for `work` bytes by type; types without a rate go at the average of the others."""
    known = sum(nbytes for kind, nbytes in work.items() if kind.name in rates)
    seconds = sum(nbytes / rates[kind.name] for kind, nbytes in work.items() if kind.name in rates)
    return seconds * sum(work.values()) / known


def _work(catalogue: Catalogue, weights: Sequence[Weight]) -> dict[QuantType, int]:
    """Bytes that one token's computation goes over, by type."""
    types = {tensor.name: tensor.type for tensor in catalogue.tensors}
    work: dict[QuantType, int] = {}
    for weight in weights:
        if weight.use not in ON_DEMAND:
            kind = types[weight.name]
            work[kind] = work.get(kind, 0) + weight.token_bytes
    return work
