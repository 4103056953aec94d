"""The watch over a serving process: its memory stays in the budget, idle weights are given back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Protocol

from flexinfer.engine.pass_stats import PassStats
from flexinfer.errors import BudgetError
from flexinfer.machine.machine import process_memory
from flexinfer.memory.ledger import Ledger

ACCOUNT = "server"
EVERY_SECONDS = 0.05
# Of the budget, so much stays free: requests grow by less between two looks.
_GUARD_SHARE = 64
_LEAST_GUARD = 8 << 20


def guard(limit: int) -> int:
    """Bytes below `limit` at which weights are given back."""
    return max(limit // _GUARD_SHARE, _LEAST_GUARD)


class Weights(Protocol):
    """What the watch asks of an engine."""

    @property
    def stats(self) -> PassStats:
        """Totals over all passes."""

    @property
    def charged(self) -> int:
        """Bytes in the ledger for weights."""

    def resize(self, room: int) -> object:
        """Spend `room` bytes on weights from the next pass on."""

    def release(self) -> None:
        """Give all weights back until a pass wants them."""


class Watch:
    """Looks at the process's own memory, which requests enlarge without asking the ledger.

    Args:
        ledger: of the process; its account "server" holds what is kept from weights.
        engine: whose weights are given back after `idle_seconds` without a pass; 0: never.
        release: gives back what other models hold as well; None: the engine's weights alone go.
        memory: anonymous and kernel bytes of this process.
        clock: seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        engine: Weights,
        *,
        idle_seconds: float = 0.0,
        release: Callable[[], object] | None = None,
        memory: Callable[[], int] = process_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._idle_seconds = idle_seconds
        self._release = release or engine.release
        self._memory = memory
        self._clock = clock
        self._extra = 0
        self._passes = engine.stats.passes
        self._since = clock()
        self._idle = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flexinfer-watch", daemon=True)

    def __repr__(self) -> str:
        state = ", weights given back" if self._idle else ""
        return f"<Watch {self._extra} bytes over the plan{state}>"

    @property
    def idle(self) -> bool:
        """The weights were given back since no pass wanted them."""
        return self._idle

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the watch; may be called again."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def look(self) -> None:
        """One look, and what follows from it."""
        self._keep_budget()
        self._release_idle()

    def _keep_budget(self) -> None:
        limit, free = self._ledger.limit, self._ledger.free
        if limit is None or free is None or free < 0:
            return  # a budget was lowered, and who gives what is too much waits for a pass
        missing = self._memory() - (limit - guard(limit))
        if missing > 0:
            try:
                self._ledger.charge(ACCOUNT, missing)
            except BudgetError:
                return  # nothing is left to give
            self._extra += missing
        elif self._extra and missing < -2 * guard(limit):
            # What was taken is free again; half of it goes back, so that it does not swing.
            self._give_back(min(self._extra, -missing // 2))

    def _give_back(self, nbytes: int) -> None:
        self._ledger.release(ACCOUNT, nbytes)
        self._extra -= nbytes
        with contextlib.suppress(BudgetError):  # others were faster
            self._engine.resize(self._engine.charged + nbytes)

    def _release_idle(self) -> None:
        passes, now = self._engine.stats.passes, self._clock()
        if passes != self._passes:
            self._passes, self._since, self._idle = passes, now, False
        elif self._idle_seconds and not self._idle and now - self._since >= self._idle_seconds:
            self._release()
            self._idle = True

    def _run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self.look()
