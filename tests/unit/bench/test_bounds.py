"""What measured rates are held against: the arithmetic of the benchmarks."""

from __future__ import annotations

import sys
from typing import Any, cast

import pytest

from flexinfer.bench.expert_turns import bounds
from flexinfer.bench.in_group import GroupRun, run_in_group
from flexinfer.bench.rate_rounds import Round, least_streamed, measure_round
from flexinfer.bench.turns import Worker
from flexinfer.errors import EngineError

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


def test_reads_of_experts_hide_behind_experts_alone() -> None:
    figures = {"missed_bytes": 4e8, "drive": 1e9, "expert_share": 0.75, "token_s": 1.0}
    # A quarter of a token's 0.2 s is dense; 0.4 s of reads are longer than 0.15 s of experts.
    assert bounds(figures, 0.2) == pytest.approx({"bound": 0.45, "least": 0.4, "ratio": 0.45})
    figures |= {"missed_bytes": 1e7}
    assert bounds(figures, 0.2) == pytest.approx({"bound": 0.2, "least": 0.2, "ratio": 0.2})


def test_a_command_without_limits_gives_its_document() -> None:
    command = [sys.executable, "-c", "print('{\"a\": 1}')"]
    assert run_in_group(command, "-", None) == GroupRun({"a": 1}, 0, 0)


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(EngineError, match="ended with 3, 0 OOM kills"):
        run_in_group([sys.executable, "-c", "raise SystemExit(3)"], "-", None)
