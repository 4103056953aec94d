"""What drive and processor do for one model: measured where the model is large enough to matter."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from flexinfer.gguf import Catalogue
from flexinfer.gguf_types import QuantType
from flexinfer.plan import ON_DEMAND, Rates, Weight
from flexinfer.probe import ASSUMED_RATE, DriveRate, drive_rate
from flexinfer.reader import DEFAULT_PIECE, DEFAULT_THREADS

# Bytes of weights a second, where nobody measured; small models only.
_ASSUMED_COMPUTE = 10e9
_TYPES = 3
# Computing with less takes no time that matters.
_SMALLEST = 64 << 20


def drive_for(catalogue: Catalogue) -> DriveRate:
    """The rate of the drive that holds the model; assumed for one that is not on this machine."""
    if all(os.path.exists(path) for path in catalogue.paths):
        return drive_rate(catalogue.paths)
    return DriveRate(ASSUMED_RATE, DEFAULT_THREADS, DEFAULT_PIECE, "assumed")


def measure_rates(
    catalogue: Catalogue, weights: Sequence[Weight], drive: DriveRate, cores: int
) -> Rates:
    """Probe the processor with the model's main quantisations; `drive` is taken as it is."""
    work = _work(catalogue, weights)
    total = sum(work.values())
    if total < _SMALLEST:
        return Rates(drive.rate, total / _ASSUMED_COMPUTE, "assumed")
    from flexinfer.compute_rate import compute_rates  # late: it loads the native library

    largest = sorted(work, key=lambda kind: -work[kind])[:_TYPES]
    rates = compute_rates(largest, cores)
    return Rates(drive.rate, seconds_a_token(work, rates), "probe")


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
