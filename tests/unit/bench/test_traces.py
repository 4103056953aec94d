"""Traces and simulated caches."""

from __future__ import annotations

import pytest

from flexinfer.bench.traces import KINDS, Trace, TraceRecorder, made_trace, optimum, simulate
from flexinfer.errors import RequestError
from flexinfer.storage.experts.eviction import POLICIES

SMALL = {"experts": 16, "used": 2, "layers": 2, "tokens": 300}


def trace_of(*tokens: tuple[int, ...]) -> Trace:
    return Trace("by hand", 8, (tokens,))


def test_lru_and_belady_by_hand() -> None:
    # With two slots LRU has lost 1 and 2 when they come back; knowing the future keeps 1.
    trace = trace_of((1,), (2,), (3,), (1,), (2,), (3,))
    assert simulate(trace, "lru", 2) == 0.0
    assert optimum(trace, 2) == pytest.approx(2 / 6)


def test_enough_slots_miss_each_expert_once() -> None:
    trace = trace_of((1, 2), (2, 3), (1, 3))
    for policy in (*POLICIES, "best"):
        assert simulate(trace, policy, 8) == pytest.approx(0.5)
    assert optimum(trace, 8) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [3, 8, 13])
def test_nothing_beats_belady(kind: str, slots: int) -> None:
    trace = made_trace(kind, **SMALL)
    best = optimum(trace, slots)
    for policy in (*POLICIES, "best"):
        assert 0.0 < simulate(trace, policy, slots) <= best < 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_choosing_loses_little_to_the_best_policy(kind: str) -> None:
    trace = made_trace(kind, **{**SMALL, "tokens": 1000})
    best = max(simulate(trace, policy, 6) for policy in POLICIES)
    assert simulate(trace, "best", 6) > best - 0.03


def test_made_traces_are_what_they_say() -> None:
    uniform, popular, recent = (
        made_trace(kind, **SMALL) for kind in ("uniform", "zipf 1.0", "zipf 0.6, recent")
    )
    assert made_trace("uniform", **SMALL) == uniform
    assert uniform.overlap() < popular.overlap() < recent.overlap()
    assert (uniform.tokens, uniform.used, uniform.experts) == (300, 2, 16)


def test_traces_are_recorded_written_and_read() -> None:
    recorder = TraceRecorder()
    recorder(1, [[3, 4]])
    recorder(0, [[1, 2], [5, 6]])
    recorder(1, [[7, 8]])
    trace = recorder.trace("a model", 9)
    assert trace.layers == (((1, 2), (5, 6)), ((3, 4), (7, 8)))
    assert Trace.from_text(trace.to_text()) == trace


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"label": 1, "experts": 2, "layers": 3}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="no routing trace"):
        Trace.from_text(text)


def test_unknown_names_are_refused() -> None:
    trace = trace_of((1,))
    with pytest.raises(RequestError, match="lfu, lru"):
        simulate(trace, "fifo", 2)
    with pytest.raises(RequestError, match="uniform"):
        made_trace("normal", **SMALL)
