"""Passes that come as several graphs: which graphs are one pass, and what it came to.

Where other devices have layers of the model, llama.cpp hands over one graph for each run of layers
that is ours. Those of one ubatch follow each other in the order of the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flexinfer.engine.pass_stats import PassStats
from flexinfer.seam import Part, Traffic


class Graph(Protocol):
    """What is known of a graph; see `native.graph.program.Program`."""

    @property
    def place(self) -> int:
        """Of the weight that it uses first, among all of the model."""

    @property
    def rows(self) -> int:
        """Tokens of the batch."""

    @property
    def sequence(self) -> Sequence[Part]:
        """The part of each load, in the order of use."""


@dataclass
class _Pass:
    """One pass under way; `seconds` are those of its graphs, `ended` when the last one did."""

    began: float
    before: Traffic
    settled: bool
    place: int = -1
    rows: int = 0
    seconds: float = 0.0
    segments: int = 0
    ended: float = 0.0
    after: Traffic = field(default_factory=Traffic)


class Passes:
    """Puts graphs together to passes.

    Args:
        note: is given each pass that is over: what it came to, its rows, and whether everything
            that is to stay was in memory before it.
        single: each graph is a pass.
        clock: in seconds.
    """

    def __init__(
        self,
        note: Callable[[PassStats, int, bool], None],
        *,
        single: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._note = note
        self._single = single
        self._clock = clock
        self._pass: _Pass | None = None
        self._graphs: list[Graph] = []
        self._known: list[Graph] = []

    def __repr__(self) -> str:
        return f"<Passes of {len(self._known)} graphs, {len(self._graphs)} done>"

    def begin(self, graph: Graph, traffic: Traffic, settled: bool) -> list[Part] | None:
        """A graph is about to be computed; returns the loads that most likely follow its own.

        Those are the other graphs' of the pass before; None where that began otherwise.
        """
        now = self._clock()
        if self._pass is not None and graph.place <= self._pass.place:
            self._close(self._pass.ended)
        if self._pass is None:
            self._pass = _Pass(now, traffic, settled)
        self._pass.place = graph.place
        self._pass.rows = self._pass.rows or graph.rows
        self._graphs.append(graph)
        at = len(self._graphs)
        if at == len(self._known) == 1 or self._known[:at] != self._graphs:
            return None
        order = [*self._known[at:], *self._known[:at]]
        return [part for one in order for part in one.sequence]

    def end(self, seconds: float, segments: int, traffic: Traffic) -> None:
        """That graph took so long, with its waits."""
        assert self._pass is not None
        self._pass.seconds += seconds
        self._pass.segments += segments
        self._pass.ended, self._pass.after = self._clock(), traffic
        if self._single:
            self._close(self._pass.ended)

    def drop(self) -> None:
        """The pass under way failed: it counts for nothing."""
        self._pass = None
        self._graphs = []

    def settle(self, traffic: Traffic) -> None:
        """The batch is over, wherever its last layers were computed: so is its last pass."""
        if self._pass is not None:
            self._pass.after = traffic
            self._close(self._clock())

    def _close(self, ended: float) -> None:
        one, self._pass = self._pass, None
        self._known, self._graphs = self._graphs, []
        assert one is not None
        traffic = one.after - one.before
        whole = ended - one.began
        stats = PassStats(
            passes=1,
            segments=one.segments,
            compute_s=one.seconds - traffic.wait_s,
            wait_s=traffic.wait_s,
            idle_s=max(whole - traffic.busy_s, 0.0),
            read_bytes=traffic.read_bytes,
            away_s=0.0 if self._single else max(whole - one.seconds, 0.0),
            tokens=one.rows,
            packing_s=traffic.treating_s,
        )
        self._note(stats, one.rows, one.settled)
