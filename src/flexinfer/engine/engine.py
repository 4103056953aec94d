"""One pass over a model: for each step wait, place, compute, release.

The engine joins the two columns: `graph` says what the nodes need, `stream` and `locked` say
where it is. It belongs to one model; passes over it are serialised by its lock because
``tensor->data`` is one field per model, however many contexts there are.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass

from flexinfer.errors import BudgetError, EngineError
from flexinfer.memory.ledger import Ledger
from flexinfer.native import mirror
from flexinfer.native.device.device import InnerBackend
from flexinfer.native.graph.expert_nodes import Routed, Scratch, route
from flexinfer.native.graph.foresight import foresee
from flexinfer.native.graph.program import Program, Step
from flexinfer.native.mirror import CGraph
from flexinfer.planning import planner
from flexinfer.planning.plan import Plan
from flexinfer.rates.passes import Observed
from flexinfer.storage.residency import Residency

# A busy Python thread would otherwise keep the interpreter for 5 ms after each segment.
_SWITCH_SECONDS = 1e-4
_PROGRAMS_KEPT = 4
# Longer than a pass over a large model on a slow drive takes.
_RECLAIM_SECONDS = 120.0


class Interrupted(Exception):
    """The pass was stopped from outside; never leaves the engine."""


@dataclass(frozen=True)
class PassStats:
    """Sums over passes: seconds, bytes, counts.

    Attributes:
        compute_s: neither waiting nor between passes.
        wait_s: waiting for the drive.
        idle_s: in which no read was under way.
    """

    passes: int = 0
    segments: int = 0
    compute_s: float = 0.0
    wait_s: float = 0.0
    idle_s: float = 0.0
    read_bytes: int = 0

    def __sub__(self, other: PassStats) -> PassStats:
        return PassStats(
            self.passes - other.passes,
            self.segments - other.segments,
            self.compute_s - other.compute_s,
            self.wait_s - other.wait_s,
            self.idle_s - other.idle_s,
            self.read_bytes - other.read_bytes,
        )


class Engine:
    """Computes the graphs of one model.

    Args:
        residency: which bytes of the model are in memory.
        ledger: of the process; the engine keeps its account "weights" for this model.
    """

    def __init__(self, residency: Residency, ledger: Ledger) -> None:
        self.residency = residency
        self.interrupted = threading.Event()
        self.closing = False
        self._ledger = ledger
        self._charged = 0
        self._lock = threading.RLock()
        self._stats = PassStats()
        self._scratch = Scratch()
        self._closed = False
        self._window = planner.adaptive_window(residency.plan)
        self.observed = Observed()
        self._charge(residency.plan)
        # From here on other threads may call.
        ledger.add_reclaimer(self.reclaim)

    def __repr__(self) -> str:
        return f"<Engine {self._stats.passes} passes, {self.residency!r}>"

    @property
    def stats(self) -> PassStats:
        """Totals since the model was opened."""
        return self._stats

    @property
    def charged(self) -> int:
        """Bytes in the ledger for this model's weights."""
        return self._charged

    def release(self) -> None:
        """Give the memory of all weights back; the plan stays, the next pass reads them again."""
        with self._lock:
            self.residency.release_all()

    def reclaim(self, nbytes: int) -> int:
        """Give about `nbytes` of locked weights back at once; returns how many came free.

        Waits for a running pass of another thread, but not for ever. What was given back streams
        from now on.
        """
        if not self._lock.acquire(timeout=_RECLAIM_SECONDS):
            return 0
        try:
            if self._closed:
                return 0
            before = self._charged
            self.resize(before - nbytes)
            return before - self._charged
        except BudgetError:
            return 0
        finally:
            self._lock.release()

    def resize(self, room: int) -> Plan:
        """Spend `room` bytes on locked weights and window from the next pass on.

        Raises:
            BudgetError: `room` does not hold the smallest window.
        """
        while True:
            before, charged = self.residency.plan, self._charged
            plan = planner.refit(before, room)
            # Booked before the pass lock is taken: others may have to give, and want theirs for it.
            more = max(plan.held_bytes - charged, 0)
            if more:
                self._ledger.charge("weights", more)
            try:
                with self._lock:
                    if self.residency.plan is before and self._charged == charged:
                        self.residency.apply(plan)
                        self._window = planner.adaptive_window(plan)
                        self._ledger.release("weights", charged + more - plan.held_bytes)
                        self._charged = plan.held_bytes
                        return plan
            except BaseException:
                self._ledger.release("weights", more)
                raise
            self._ledger.release("weights", more)

    def _adapt(self, seconds: float, waited: float, idle: float) -> None:
        """Let the window follow what passes lose."""
        if self._window is None:
            return
        window = self._window.observe(seconds, waited, idle)
        if window is None:
            return
        plan = planner.rewindow(self.residency.plan, window)
        # Rounding may differ by some pages; nobody else is asked to give any for this.
        free = self._ledger.free
        if free is None or plan.held_bytes <= self._charged + free:
            self.residency.apply(plan)
            self._charge(plan)

    def _charge(self, plan: Plan) -> None:
        """Book what the plan holds; shrinking first, so that a charge is never refused."""
        change = plan.held_bytes - self._charged
        if change > 0:
            self._ledger.charge("weights", change)
        elif change < 0:
            self._ledger.release("weights", -change)
        self._charged = plan.held_bytes

    def compute(self, backend: InnerBackend, graph_address: int) -> int:
        """Compute one graph; returns a ggml status.

        Raises:
            ReadError: weights could not be read; nothing is under way any more.
            EngineError: the model is closed.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the model is closed")
            interval = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_SECONDS)
            try:
                return self._pass(backend, graph_address)
            except Interrupted:
                self.residency.stop()
                return mirror.STATUS_ABORTED
            except BaseException:
                self.residency.stop()
                raise
            finally:
                sys.setswitchinterval(interval)

    def check(self) -> None:
        """Stop the pass if that was asked for.

        Raises:
            Interrupted: it was.
        """
        if self.interrupted.is_set():
            raise Interrupted

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ledger.remove_reclaimer(self.reclaim)
            self._ledger.release("weights", self._charged)
            self.residency.close()

    def _program(self, backend: InnerBackend, graph_address: int) -> Program:
        uid = CGraph.from_address(graph_address).uid
        version = self.residency.version
        program: Program | None = backend.programs.get(uid) if uid else None
        if program is None or program.version != version:
            program = Program(graph_address, self.residency.layouts, version)
            foresee(graph_address, program.routed, self.residency.layouts)
            if uid:
                backend.programs.pop(uid, None)
                while len(backend.programs) >= _PROGRAMS_KEPT:
                    backend.programs.pop(next(iter(backend.programs)))
                backend.programs[uid] = program
        return program

    def _pass(self, backend: InnerBackend, graph_address: int) -> int:
        began = time.perf_counter()
        program = self._program(backend, graph_address)
        before = self.residency.waited_s, self.residency.read_bytes, self.residency.busy_s
        self.check()
        settled = self.residency.settled
        self.residency.begin(program.sequence)
        if program.untouched and not program.sequence:
            status, segments = backend.compute(CGraph.from_address(graph_address)), 1
        else:
            status, segments = self._steps(backend, program, graph_address)
        self.residency.end()
        waited = self.residency.waited_s - before[0]
        seconds = time.perf_counter() - began
        idle = max(seconds - (self.residency.busy_s - before[2]), 0.0)
        self._stats = PassStats(
            self._stats.passes + 1,
            self._stats.segments + segments,
            self._stats.compute_s + seconds - waited,
            self._stats.wait_s + waited,
            self._stats.idle_s + idle,
            self._stats.read_bytes + self.residency.read_bytes - before[1],
        )
        # A pass that brings in what is to stay is like no later one.
        if status == mirror.STATUS_SUCCESS and settled:
            nbytes = self.residency.read_bytes - before[1]
            self.observed.note(seconds, waited, idle, nbytes)
            self._adapt(seconds, waited, idle)
        return status

    def _steps(
        self, backend: InnerBackend, program: Program, graph_address: int
    ) -> tuple[int, int]:
        program.begin(graph_address)
        steps = program.steps
        segments = position = 0
        while position < len(steps):
            self.check()
            first = position
            routed = steps[position].routed
            if routed is not None:
                status, computed = self._experts(backend, program, routed)
                segments += computed
                position += 1
                if status != mirror.STATUS_SUCCESS:
                    self.residency.stop()
                    return status, segments
                continue
            self._place(steps[position])
            position += 1
            position = self._merge(steps, first, position)
            segment = program.segment(steps[first].start, steps[position - 1].stop)
            status = backend.compute(segment)
            segments += 1
            if status != mirror.STATUS_SUCCESS:
                self.residency.stop()
                return status, segments
            self._release(steps, first, position)
        return status, segments

    def _experts(self, backend: InnerBackend, program: Program, routed: Routed) -> tuple[int, int]:
        """Compute the nodes of a routed step, expert by expert as they arrive."""
        routing = route(routed, self._scratch)
        arrivals = self.residency.fetch_experts(routing.batch)
        segments = self._guess(backend, program, routed)
        for ready in arrivals:
            for array, count in routing.segments(ready):
                status = backend.compute(program.segment_of(array, count))
                segments += 1
                if status != mirror.STATUS_SUCCESS:
                    return status, segments
                routing.finish()
            self.check()
        return mirror.STATUS_SUCCESS, segments

    def _guess(self, backend: InnerBackend, program: Program, routed: Routed) -> int:
        """While a layer's experts are read, find those that the next one will want; segments."""
        foresight = routed.foresight
        if foresight is None:
            return 0
        most = self.residency.guesses(foresight.group, foresight.used)
        if not most:
            return 0
        began = time.perf_counter()
        foresight.aim()
        status = backend.compute(program.segment_of(foresight.array, foresight.count))
        if status == mirror.STATUS_SUCCESS:
            cost = time.perf_counter() - began
            self.residency.guess_experts(foresight.group, foresight.experts(), most, cost)
        return 1

    def _place(self, step: Step) -> None:
        for load in step.loads:
            load.place(self.residency.acquire(load.index))
        for lookup in step.lookups:
            lookup.load.place(self.residency.fetch_rows(lookup.table, lookup.rows()))

    def _merge(self, steps: list[Step], first: int, position: int) -> int:
        """Take in following steps whose weights are there: fewer, longer segments.

        The bytes in one segment are bounded, since their room is given back only after it.
        """
        room = self.residency.merge_bytes - steps[first].stream_bytes
        placed = {load.part.name for load in steps[first].loads}
        while position < len(steps):
            step = steps[position]
            room -= step.stream_bytes
            names = {load.part.name for load in step.loads}
            if room < 0 or step.routed or step.lookups or names & placed:
                break
            if not all(self.residency.ready(load.index) for load in step.loads):
                break
            self._place(step)
            placed |= names
            position += 1
        return position

    def _release(self, steps: list[Step], first: int, position: int) -> None:
        for step in steps[first:position]:
            for load in step.loads:
                if not load.part.locked:
                    load.clear()
            for lookup in step.lookups:
                lookup.load.clear()
        self.residency.release(steps[position - 1].releases)
