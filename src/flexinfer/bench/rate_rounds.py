"""Rounds of decoding beside its bound: drive alone, ours, processor alone, ours, drive alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from flexinfer.bench.turns import Worker

# Of a budget, what no engine could spend on weights.
_MARGIN = 64 << 20


@dataclass(frozen=True)
class Round:
    """Medians of one round: `drive` in bytes/s, all else in seconds.

    `bound` is the larger of a computed and of a read token; `cpu_per_gb` processor seconds that
    reading takes for 1e9 bytes.
    """

    drive: float
    compute: float
    bound: float
    step: float
    wait: float
    cpu_per_gb: float

    @property
    def ratio(self) -> float:
        """Share of the bound's rate that was reached."""
        return self.bound / self.step


def least_streamed(weights: int, facts: dict[str, Any]) -> int:
    """Bytes a token that any engine would have to stream in the budget of a worker's `facts`.

    `weights` are the bytes of all; rows of embeddings need not be read, and what is left of the
    budget after process, KV cache, compute buffers and 64 MiB may stay.
    """
    memory: dict[str, int] = facts["memory"]
    spent = memory["overhead"] + memory["kv"] + memory["compute"] + _MARGIN
    return max(weights - int(facts["rows"]) - (memory["budget"] - spent), 0)


def measure_round(ours: Worker, plain: Worker, steps: int, streamed: int) -> Round:
    """One round of `steps` tokens a measurement; `streamed` is what `least_streamed` says."""
    reads = [ours.ask("read", 1)]
    first = ours.ask("step", steps)
    compute = statistics.median(plain.ask("step", steps)["times"])
    times = first["times"] + ours.ask("step", steps)["times"]
    reads.append(ours.ask("read", 1))
    seconds = sum(read["times"][0] for read in reads) / len(reads)
    nbytes = sum(read["read"] for read in reads) / len(reads)
    drive = nbytes / seconds if nbytes else float("inf")
    gigabytes = nbytes * len(reads) / 1e9
    return Round(
        drive=drive,
        compute=compute,
        bound=max(compute, streamed / drive),
        step=statistics.median(times),
        wait=first["wait_s"] / steps,
        cpu_per_gb=sum(read["cpu_s"] for read in reads) / gigabytes if gigabytes else 0.0,
    )
