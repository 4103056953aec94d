"""Gains, explained by the counters of the runs."""

from __future__ import annotations

from typing import Any

from support.bench_runs import MIB, NATIVE, run

from flexinfer.bench.reasons import why
from flexinfer.bench.summary import Summary


def test_gains_are_explained_by_the_counters_of_the_runs(entry: dict[str, Any]) -> None:
    summary = Summary("m.gguf", entry)
    direct, prefetch = "Direct reads: mmap with 128 KiB of readahead reads 100 MiB", "Prefetching"
    explained = why(summary, NATIVE, 128)
    assert [reason.startswith(direct) for reason in explained] == [True]
    budget = 500 * MIB
    for number in (0, 1):
        entry["runs"] += [
            run("prefetch", budget, 1.5, number),
            run("layers", budget, 1.4 + number, number),
            run("algorithm1", budget, 1.2 + number, number, per_token={"drive_bytes": 77.0 * MIB}),
        ]
    explained = why(Summary("m.gguf", entry), NATIVE, None)
    starts = ["Direct reads: mmap reads", prefetch, "Balanced locking", "Exact fill"]
    assert list(map(str.startswith, explained, starts)) == [True] * 4
    # 100 MiB at 750 MiB/s beside 200 ms of computing.
    assert "computing (200 ms) and reading (133 ms) behind the longer" in explained[1]
    assert "at most 1.67x" in explained[1]
    assert "wait 0 ms a token and those with whole layers locked 475 ms" in explained[2]
    assert "reads 100 MiB a token" in explained[3]
    assert "reads 77.0 MiB" in explained[3]
