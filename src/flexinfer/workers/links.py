"""What a worker's processors and the link to it do: probed once, then learned from passes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from flexinfer.errors import WorkerError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.types import QuantType
from flexinfer.native.remote_probe import probing
from flexinfer.native.rpc import rpc
from flexinfer.planning.split import Split
from flexinfer.rates.cache_file import Remembered
from flexinfer.workers.greeting import Worker

# Larger than a processor's caches; and less than what llama.cpp first asks for by its hash.
_WEIGHT_BYTES = 48 << 20
_MAIL_BYTES = 4 << 20
# The memory for both, and for their graph.
_NEEDED = _WEIGHT_BYTES + _MAIL_BYTES + (2 << 20)
_SMALLEST_S = 1e-9
# Of fewer bytes a token's time is mostly that of asking for it.
_SMALLEST = 256 << 20


@dataclass(frozen=True)
class Link:
    """Bytes of weights a second for one token; bytes/s of the link, and seconds of its latency."""

    rate: float
    link: float
    latency: float


# Where there is no room for a probe: a processor of two cores, a link of 1 Gbit/s.
_ASSUMED = Link(5e9, 100e6, 1e-3)


def link_of(worker: Worker, kind: QuantType) -> Link:
    """What this worker does with weights of that type.

    Raises:
        WorkerError: it was lost meanwhile.
    """
    memory, key = Remembered(), _key(worker.endpoint, kind)
    entry = memory.get(key) or {}
    known = _recall(entry)
    # Another machine at the same address has other memory.
    if known is not None and entry.get("total") == worker.total:
        return known
    measured = None if worker.free < _NEEDED else _measure(rpc().device(worker.endpoint), kind)
    lost = rpc().lost(worker.endpoint)
    if lost is not None:
        raise WorkerError(f"worker {worker.endpoint}: {lost}")
    if measured is None:
        return _ASSUMED
    memory.put(key, {**asdict(measured), "total": worker.total})
    return measured


def learn(catalogue: Catalogue, split: Split, away_s: float | None) -> None:
    """Keep what passes showed of the workers with layers, each by the same part of it.

    A pass has more in it than the product of a probe.

    Args:
        split: that was planned, of the model in `catalogue`.
        away_s: seconds of a token that passed elsewhere; None: too few were computed.
    """
    if not away_s or split.away_bytes < _SMALLEST:
        return
    memory, kind = Remembered(), main_type(catalogue)
    for share in split.after:
        key = _key(share.name, kind)
        entry = memory.get(key) or {}
        known = _recall(entry)
        if known is not None:
            memory.put(key, {**entry, "rate": known.rate * split.away_s / away_s})


def probe_device(device: int, kind: QuantType) -> Link:
    """What a ``ggml_backend_dev_t`` of this machine does with weights of that type."""
    return _measure(device, kind) or _ASSUMED


def _measure(device: int, kind: QuantType) -> Link | None:
    with probing(device, kind.id, _WEIGHT_BYTES, _MAIL_BYTES) as probe:
        if probe is None:
            return None
        latency = max(probe.latency(), _SMALLEST_S)
        computed = max(probe.compute() - latency, _SMALLEST_S)
        sent, size = probe.send()
        return Link(probe.nbytes / computed, size / max(sent - latency, _SMALLEST_S), latency)


def _key(endpoint: str, kind: QuantType) -> str:
    return f"worker {endpoint}, {kind.name}"


def _recall(entry: dict[str, object]) -> Link | None:
    numbers = [entry.get(name) for name in ("rate", "link", "latency")]
    if all(isinstance(n, float) and 0 < n < math.inf for n in numbers):
        return Link(*(float(n) for n in numbers))  # type: ignore[arg-type]
    return None


def main_type(catalogue: Catalogue) -> QuantType:
    """The type with the most bytes."""
    sums: dict[QuantType, int] = {}
    for info in catalogue.tensors:
        sums[info.type] = sums.get(info.type, 0) + info.nbytes
    return max(sums, key=lambda kind: sums[kind])
