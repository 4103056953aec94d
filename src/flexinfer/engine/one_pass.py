"""One pass over a model: for each step wait, place, compute, release.

A pass joins the two columns: the program says what its steps need, the source of weights brings it.
It knows neither a library nor a drive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flexinfer.engine.interrupts import Interrupted
from flexinfer.native.graph.expert_nodes import Routed
from flexinfer.native.graph.foresight import Foresight
from flexinfer.native.graph.routing import Scratch, route
from flexinfer.native.graph.steps import Step
from flexinfer.native.mirror import STATUS_ABORTED, STATUS_SUCCESS
from flexinfer.seam import Part, WeightSource


class Steps(Protocol):
    """What a pass needs of a program; see `native.graph.program.Program`."""

    @property
    def steps(self) -> Sequence[Step]:
        """In order; together they cover every node."""

    @property
    def sequence(self) -> Sequence[Part]:
        """The part of each load, in the order of use."""

    @property
    def foresight(self) -> Mapping[Routed, Foresight]:
        """What guesses the routing of the layer after, for the routed steps where that works."""

    def segment(self, start: int, stop: int) -> Any:
        """What computes the nodes `start` to `stop`."""

    def segment_of(self, array: Any, count: int) -> Any:
        """What computes `count` nodes of an array of their addresses."""


class _Failed(Exception):
    """A segment was not computed; never leaves the pass."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class OnePass:
    """Computes the steps of a program once.

    Args:
        program: of the graph, which is not freed meanwhile.
        source: of the weights.
        compute: computes a segment and returns a ggml status.
        check: called between segments; raises Interrupted to stop the pass.
        scratch: memory for routed steps.
        merge_bytes: how many streamed bytes one segment may hold back from the source.
        following: the loads that most likely come after this program's; None: the same again.

    Attributes:
        segments: how many were computed.
    """

    def __init__(
        self,
        program: Steps,
        source: WeightSource,
        compute: Callable[[Any], int],
        check: Callable[[], None],
        scratch: Scratch,
        merge_bytes: int,
        following: Sequence[Part] | None = None,
    ) -> None:
        self.segments = 0
        self._program = program
        self._steps = program.steps
        self._source = source
        self._call = compute
        self._check = check
        self._scratch = scratch
        self._merge_bytes = merge_bytes
        self._following = program.sequence if following is None else following

    def run(self) -> int:
        """Compute all steps; returns a ggml status. However it ends, nothing is left under way.

        Raises:
            ReadError: weights could not be read.
        """
        finished = False
        try:
            self._check()
            self._source.begin(self._program.sequence, self._following)
            position = 0
            while position < len(self._steps):
                self._check()
                position = self._run(position)
            finished = True
        except Interrupted:
            return STATUS_ABORTED
        except _Failed as failure:
            return failure.status
        finally:
            if finished:
                self._source.end()
            else:
                self._source.stop()
        return STATUS_SUCCESS

    def _run(self, first: int) -> int:
        """Compute the step `first` and what joins it; returns the next one."""
        step = self._steps[first]
        if step.routed is not None:
            self._compute_experts(step.routed)
            return first + 1
        self._place(step)
        following = self._merge(first)
        self._compute(self._program.segment(step.start, self._steps[following - 1].stop))
        self._release(first, following)
        return following

    def _compute(self, segment: Any) -> None:
        self.segments += 1
        status = self._call(segment)
        if status != STATUS_SUCCESS:
            raise _Failed(status)

    # -- dense steps --------------------------------------------------------------------------

    def _place(self, step: Step) -> None:
        for load in step.loads:
            load.place(self._source.acquire(load.index))
        for lookup in step.lookups:
            lookup.load.place(self._source.fetch_rows(lookup.table, lookup.rows()))

    def _merge(self, first: int) -> int:
        """Take in following steps whose weights are there: fewer, longer segments.

        The bytes in one segment are bounded, since their room is given back only after it. Returns
        the step after the last one.
        """
        steps, following = self._steps, first + 1
        room = self._merge_bytes - steps[first].stream_bytes
        placed = {load.part.name for load in steps[first].loads}
        while following < len(steps):
            step = steps[following]
            room -= step.stream_bytes
            names = {load.part.name for load in step.loads}
            if room < 0 or step.routed or step.lookups or names & placed:
                break
            if not all(self._source.ready(load.index) for load in step.loads):
                break
            self._place(step)
            placed |= names
            following += 1
        return following

    def _release(self, first: int, following: int) -> None:
        for step in self._steps[first:following]:
            for load in step.loads:
                if not load.part.locked:
                    load.clear()
            for lookup in step.lookups:
                lookup.load.clear()
        self._source.release(self._steps[following - 1].releases)

    # -- routed steps -------------------------------------------------------------------------

    def _compute_experts(self, routed: Routed) -> None:
        """Compute the nodes of a routed step, expert by expert as they arrive."""
        routing = route(routed, self._scratch)
        arrivals = self._source.fetch_experts(routing.batch)
        self._guess(routed)
        for ready in arrivals:
            for array, count in routing.segments(ready):
                self._compute(self._program.segment_of(array, count))
                routing.finish()
            self._check()

    def _guess(self, routed: Routed) -> None:
        """While a layer's experts are read, find those that the next one will want."""
        foresight = self._program.foresight.get(routed)
        if foresight is None:
            return
        most = self._source.guesses(foresight.group, foresight.used)
        if not most:
            return
        began = time.perf_counter()
        foresight.aim()
        self._compute(self._program.segment_of(foresight.array, foresight.count))
        cost = time.perf_counter() - began
        self._source.guess_experts(foresight.group, foresight.experts(), most, cost)
