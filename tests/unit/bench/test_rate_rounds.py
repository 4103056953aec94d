"""Rounds of decoding beside its bound: the arithmetic that measured rates are held against."""

from __future__ import annotations

from typing import Any, cast

import pytest

from flexinfer.bench.rate_rounds import Round, least_streamed, measure_round
from flexinfer.bench.turns import Worker

MIB = 1 << 20


def test_what_any_engine_has_to_stream() -> None:
    memory = {"budget": 400 * MIB, "overhead": 50 * MIB, "kv": 30 * MIB, "compute": 20 * MIB}
    facts = {"memory": memory, "rows": 40 * MIB}
    # 400 - 50 - 30 - 20 - 64 = 236 MiB may stay.
    assert least_streamed(1000 * MIB, facts) == (1000 - 40 - 236) * MIB
    assert least_streamed(200 * MIB, facts) == 0


class _Script:
    """Answers as a worker does, by command, in order."""

    def __init__(self, **answers: list[dict[str, Any]]) -> None:
        self.asked: list[tuple[str, int]] = []
        self._answers = answers

    def ask(self, command: str, count: int) -> dict[str, Any]:
        self.asked.append((command, count))
        return self._answers[command].pop(0)


def test_a_round_is_the_drive_ours_the_processor_ours_the_drive() -> None:
    reads = [
        {"times": [2.0], "read": 8e9, "cpu_s": 1.0},
        {"times": [2.0], "read": 8e9, "cpu_s": 3.0},
    ]
    steps = [{"times": [0.5, 0.5], "wait_s": 0.2}, {"times": [0.7, 0.9], "wait_s": 9.0}]
    ours = _Script(read=reads, step=steps)
    plain = _Script(step=[{"times": [0.1, 0.3, 0.2]}])
    found = measure_round(cast(Worker, ours), cast(Worker, plain), 2, streamed=12 * 10**8)
    assert ours.asked == [("read", 1), ("step", 2), ("step", 2), ("read", 1)]
    assert plain.asked == [("step", 2)]
    assert found == Round(drive=4e9, compute=0.2, bound=0.3, step=0.6, wait=0.1, cpu_per_gb=0.25)
    assert found.ratio == pytest.approx(0.5)


def test_without_reads_the_processor_is_the_bound() -> None:
    nothing = [{"times": [1e-6], "read": 0, "cpu_s": 0.0}] * 2
    ours = _Script(read=nothing, step=[{"times": [0.4], "wait_s": 0.0}] * 2)
    found = measure_round(
        cast(Worker, ours), cast(Worker, _Script(step=[{"times": [0.4]}])), 1, streamed=10**9
    )
    assert (found.bound, found.ratio, found.cpu_per_gb) == (0.4, 1.0, 0.0)
