"""Graphs become passes: what each pass came to, and what is read ahead across its graphs."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexinfer.engine.pass_stats import PassStats
from flexinfer.engine.passes import Passes
from flexinfer.seam import Part, Traffic


def part(name: str) -> Part:
    return Part(name, 0, 0, 1, 0, 1, False)


@dataclass(eq=False)
class Graph:
    place: int
    sequence: list[Part] = field(default_factory=list)
    rows: int = 1


class Bench:
    """Passes with a clock that is set, and what they noted."""

    def __init__(self, *, single: bool = False) -> None:
        self.now = 0.0
        self.noted: list[tuple[PassStats, int, bool]] = []
        self.passes = Passes(
            lambda *noted: self.noted.append(noted), single=single, clock=lambda: self.now
        )

    def compute(self, graph: Graph, traffic: Traffic, seconds: float) -> list[Part] | None:
        """One graph that reads 10 bytes and waits for a tenth of its time."""
        following = self.passes.begin(graph, traffic, settled=True)
        self.now += seconds
        self.passes.end(seconds, 3, after(traffic, seconds))
        return following


def after(traffic: Traffic, seconds: float) -> Traffic:
    wait, busy = traffic.wait_s + seconds / 10, traffic.busy_s + seconds / 2
    return Traffic(traffic.read_bytes + 10, wait, busy)


def test_two_graphs_with_others_between_are_one_pass() -> None:
    bench, first, second = Bench(), Graph(0), Graph(5)
    bench.compute(first, Traffic(), 1.0)
    bench.now += 4.0
    between = after(Traffic(), 1.0)
    bench.compute(second, between, 2.0)
    assert bench.noted == []
    bench.now += 3.0
    bench.passes.settle(after(between, 2.0))
    ((stats, rows, settled),) = bench.noted
    assert (stats.passes, stats.segments, stats.read_bytes) == (1, 6, 20)
    assert (rows, settled) == (1, True)
    assert abs(stats.away_s - 7.0) < 1e-9
    assert abs(stats.wait_s - 0.3) < 1e-9
    assert abs(stats.compute_s - 2.7) < 1e-9
    assert abs(stats.idle_s - 8.5) < 1e-9


def test_a_graph_of_earlier_weights_begins_the_next_pass() -> None:
    bench, first, second = Bench(), Graph(0, rows=32), Graph(5, rows=32)
    for _ in range(3):
        bench.compute(first, Traffic(), 1.0)
        bench.now += 1.0
        bench.compute(second, Traffic(), 1.0)
    assert [(stats.passes, rows) for stats, rows, _ in bench.noted] == [(1, 32), (1, 32)]
    assert [stats.away_s for stats, _, _ in bench.noted] == [1.0, 1.0]
    assert [stats.tokens for stats, _, _ in bench.noted] == [32, 32]
    bench.passes.settle(Traffic())
    bench.passes.settle(Traffic())
    assert len(bench.noted) == 3


def test_each_graph_is_a_pass_where_nothing_is_elsewhere() -> None:
    bench = Bench(single=True)
    bench.compute(Graph(0), Traffic(), 1.0)
    bench.compute(Graph(5), Traffic(), 1.0)
    assert [stats.passes for stats, _, _ in bench.noted] == [1, 1]
    assert all(stats.away_s == 0 for stats, _, _ in bench.noted)


def test_a_failed_pass_counts_for_nothing() -> None:
    bench, first = Bench(), Graph(0)
    bench.passes.begin(first, Traffic(), settled=True)
    bench.passes.drop()
    bench.passes.settle(Traffic())
    assert bench.noted == []
    bench.compute(first, Traffic(), 1.0)
    bench.passes.settle(Traffic())
    assert len(bench.noted) == 1


def test_reads_go_on_with_the_next_graph_of_the_pass_before() -> None:
    one, two, three = part("one"), part("two"), part("three")
    bench, first, second = Bench(), Graph(0, [one]), Graph(5, [two, three])
    assert bench.compute(first, Traffic(), 1.0) is None
    assert bench.compute(second, Traffic(), 1.0) is None
    bench.passes.settle(Traffic())
    assert bench.compute(first, Traffic(), 1.0) == [two, three, one]
    assert bench.compute(second, Traffic(), 1.0) == [one, two, three]
    bench.passes.settle(Traffic())
    # Another batch, of which only its own graph is known.
    assert bench.compute(Graph(0, [one]), Traffic(), 1.0) is None
