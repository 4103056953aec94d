"""The engine of one model: its passes one at a time, its budget, and what both came to.

Passes over a model are serialised by its lock because ``tensor->data`` is one field per model,
however many contexts there are.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from flexinfer.engine.interrupts import Interrupt
from flexinfer.engine.one_pass import OnePass
from flexinfer.engine.pass_stats import PassStats
from flexinfer.engine.passes import Passes
from flexinfer.engine.programs import Keep, Programs
from flexinfer.errors import BudgetError, EngineError
from flexinfer.memory.ledger import Ledger
from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.graph.program import Program
from flexinfer.native.graph.routing import Scratch
from flexinfer.native.graph.widths import Widths
from flexinfer.native.mirror import STATUS_FAILED, STATUS_SUCCESS
from flexinfer.planning import planner
from flexinfer.planning.plan import Plan
from flexinfer.rates.passes import Observed
from flexinfer.seam import Storage

# A busy Python thread would otherwise keep the interpreter for 5 ms after each segment.
_SWITCH_SECONDS = 1e-4
# Longer than a pass over a large model on a slow drive takes.
_RECLAIM_SECONDS = 120.0
# The share of the window that one segment may hold back from the next reads.
_MERGED = 1 / 8


class Engine:
    """Computes the graphs of one model.

    Args:
        storage: which bytes of the model are in memory.
        ledger: of the process; the engine keeps its account "weights" for this model.
        interrupt: stops passes; `storage` looks at the same one.
    """

    def __init__(self, storage: Storage, ledger: Ledger, interrupt: Interrupt) -> None:
        self.storage = storage
        self.interrupt = interrupt
        self.observed = Observed()
        self._ledger = ledger
        self._charged = 0
        self._lock = threading.RLock()
        self._stats = PassStats()
        self._passes = Passes(self._note, single=not storage.plan.away_s)
        self._programs = Programs()
        self._scratch = Scratch()
        self.keeps = Keep.NEVER
        self._widths = Widths()
        self._closed = False
        self._window = planner.adaptive_window(storage.plan)
        self._charge(storage.plan)
        # From here on other threads may call.
        ledger.add_reclaimer(self.reclaim)

    def __repr__(self) -> str:
        return f"<Engine {self._stats.passes} passes, {self.storage!r}>"

    @property
    def stats(self) -> PassStats:
        """Totals over the passes since the model was opened."""
        return self._stats

    @property
    def charged(self) -> int:
        """Bytes in the ledger for this model's weights."""
        return self._charged

    # -- passes -------------------------------------------------------------------------------

    def compute(self, backend: InnerBackend, graph_address: int) -> int:
        """Compute one graph; returns a ggml status.

        Raises:
            ReadError: weights could not be read; nothing is under way any more.
            EngineError: the model is closed.
        """
        with self._lock, _short_turns():
            if self._closed:
                raise EngineError("the model is closed")
            program = self._program(backend, graph_address)
            began, storage = time.perf_counter(), self.storage
            following = self._passes.begin(program, storage.traffic, storage.settled)
            if program.version != storage.version:
                # What the pass before taught changed the window.
                program, following = self._program(backend, graph_address), None
            program.begin(graph_address)
            one_pass = OnePass(
                program,
                self.storage,
                backend.compute,
                self.interrupt.check,
                self._scratch,
                int(self.storage.plan.window * _MERGED),
                following,
            )
            status = STATUS_FAILED
            try:
                status = one_pass.run()
            finally:
                if status == STATUS_SUCCESS:
                    seconds = time.perf_counter() - began
                    self._passes.end(seconds, one_pass.segments, storage.traffic)
                else:
                    self._passes.drop()
            return status

    def settle(self) -> None:
        """The batch that was computed is over, also what other devices had to do for it."""
        with self._lock:
            if not self._closed:
                self._passes.settle(self.storage.traffic)

    @contextlib.contextmanager
    def keeping_rows(self) -> Iterator[None]:
        """While entered, the rows of a batch come out bit for bit as each would alone.

        They have to be of one sequence, one token after the other.
        """
        before, self.keeps = self.keeps, Keep.ALWAYS
        try:
            yield
        finally:
            self.keeps = before

    def _program(self, backend: InnerBackend, graph: int) -> Program:
        return self._programs.program(
            graph,
            self.storage,
            lambda product: self._widths.width(product, graph, backend.compute),
            self.keeps,
        )

    def _note(self, one: PassStats, rows: int, settled: bool) -> None:
        """Take in a pass; one that brings in what is to stay is like no later one."""
        self._stats += one
        if not settled:
            return
        seconds = one.compute_s + one.wait_s + one.away_s
        if rows == 1 or self.keeps is Keep.NEVER:  # kept ones cost more than several sequences'
            read, asked = one.read_bytes, one.read_bytes * self.storage.plan.rates.asking
            taken = (one.wait_s, one.idle_s, read, one.away_s, one.packing_s, asked)
            self.observed.note(rows, seconds, *taken)
        if self._window is not None:
            window = self._window.observe(rows, seconds, one.wait_s, one.idle_s)
            if window is not None:
                self._adapt(window)

    # -- budget -------------------------------------------------------------------------------

    def release(self) -> None:
        """Give the memory of all weights back; the plan stays, the next pass reads them again."""
        with self._lock:
            self.storage.release_all()

    def reclaim(self, missing: Callable[[], int]) -> int:
        """Give about as many bytes of locked weights back as are `missing`; returns how many.

        Waits for a running pass of another thread, but not for ever. What was given back streams
        from now on.
        """
        if not self._lock.acquire(timeout=_RECLAIM_SECONDS):
            return 0
        try:
            if self._closed or not (nbytes := missing()):
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
            before, charged = self.storage.plan, self._charged
            plan = planner.refit(before, room)
            # Booked before the pass lock is taken: others may have to give, and want theirs for it.
            more = max(plan.held_bytes - charged, 0)
            if more:
                self._ledger.charge("weights", more, beside=self.reclaim)
            try:
                with self._lock:
                    if self.storage.plan is before and self._charged == charged:
                        self.storage.apply(plan)
                        self._window = planner.adaptive_window(plan)
                        self._ledger.release("weights", charged + more - plan.held_bytes)
                        self._charged = plan.held_bytes
                        return plan
            except BaseException:
                self._ledger.release("weights", more)
                raise
            self._ledger.release("weights", more)

    def _adapt(self, window: int) -> None:
        """Go over to another window, which follows what passes lose."""
        plan = planner.rewindow(self.storage.plan, window)
        # Rounding may differ by some pages; nobody else is asked to give any for this.
        free = self._ledger.free
        if free is None or plan.held_bytes <= self._charged + free:
            self.storage.apply(plan)
            self._charge(plan)

    def _charge(self, plan: Plan) -> None:
        """Book what the plan holds; shrinking first, so that a charge is never refused."""
        change = plan.held_bytes - self._charged
        if change > 0:
            self._ledger.charge("weights", change)
        elif change < 0:
            self._ledger.release("weights", -change)
        self._charged = plan.held_bytes

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ledger.remove_reclaimer(self.reclaim)
            self._ledger.release("weights", self._charged)
            self._programs.clear()
            self.storage.close()


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """While entered, threads that wait for the interpreter get it soon."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
