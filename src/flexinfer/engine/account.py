"""What one model takes of the process's memory: its budget, what it began with, its overhead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from flexinfer.engine.options import Options
from flexinfer.errors import BudgetError
from flexinfer.machine.machine import process_memory
from flexinfer.memory.heap import trim_heap
from flexinfer.memory.ledger import Ledger
from flexinfer.planning import planner
from flexinfer.planning.plan import Plan

# Is told a model's plan and the bytes for its weights, of which another may take some.
Share = Callable[[Plan, int], Callable[[], object]]


class Weights(Protocol):
    """What a budget asks of an engine."""

    @property
    def charged(self) -> int:
        """Bytes in the ledger for weights."""

    def resize(self, room: int) -> object:
        """Spend `room` bytes on weights from the next pass on."""


class Held(Protocol):
    """What a budget asks of the memory of weights."""

    @property
    def plan(self) -> Plan:
        """What stays and what streams."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of its memory that the system backs now."""


class Account:
    """One model in the ledger of the process, from before it is loaded until it is freed.

    Args:
        ledger: of the process.
        options: how the model is to be opened; `budget` has what others left of its budget.
        forked: this process was forked from one that had models.
        memory: anonymous and kernel bytes of this process.
    """

    def __init__(
        self,
        ledger: Ledger,
        options: Options,
        *,
        forked: bool,
        memory: Callable[[], int] = process_memory,
    ) -> None:
        # Buffers keep it as long as they live, so it must not lead to the model.
        self.owner = object()
        self.options = options
        self.overhead = 0
        self._ledger = ledger
        self._memory = memory
        # The first model bears what the process was before it; later ones what they add, as do
        # those of a process that was forked, whose memory is mostly its parent's.
        self._began = memory() if ledger.used or forked else 0
        # What no account bears, whatever the others do.
        self._aside = max(self._began - ledger.used, 0) if forked else 0
        self._charged_before = ledger.used
        if options.weight_memory is None:
            ledger.limit_to(self.owner, options.budget, asked=options.asked)
            if ledger.free is not None and ledger.used:
                self.options = replace(options, budget=min(options.budget, ledger.free))

    def base(self) -> int:
        """Bytes that the process has come to take for this model, whatever its context."""
        # What was charged meanwhile, adapters for one, is not charged twice.
        meanwhile = self._ledger.used - self._charged_before
        return self._memory() - self._began - meanwhile + self.options.mirror_bytes

    def hold(self, overhead: int) -> None:
        """Book another overhead.

        Raises:
            BudgetError: it does not fit.
        """
        change = overhead - self.overhead
        if change > 0:
            self._ledger.charge("overhead", change)
        else:
            self._ledger.release("overhead", -change)
        self.overhead = overhead

    def change(self, nbytes: int, weights: Weights, held: Held, share: Share | None = None) -> None:
        """Let the process use `nbytes` from the next pass on; what is too much goes back now.

        A model beside this one takes its `share` first, which tells how to undo that.

        Raises:
            BudgetError: they do not hold the smallest window; everything is as before.
        """
        limit, overhead, plan = self._ledger.limit, self.overhead, held.plan
        undo: Callable[[], object] = int
        try:
            self._limit_to(nbytes)
            self.hold(self._found(weights, held))
            if share is not None:
                undo = share(held.plan, self._room(weights, nbytes))
            self._refit(weights, nbytes)
        except BudgetError:
            self._limit_to(limit)
            self.hold(overhead)
            undo()
            if held.plan is not plan:
                with suppress(BudgetError):  # others took of it: it stays as small as it is
                    self._refit(weights, limit, plan.room)
            raise
        trim_heap()

    def close(self) -> None:
        """Give everything back that is not the weights'."""
        self.hold(0)
        self._ledger.unlimit(self.owner)

    def _room(self, weights: Weights, nbytes: int | None) -> int:
        free = self._ledger.free
        if nbytes is None or free is None:
            return sys.maxsize
        return weights.charged + free - planner.margin(nbytes)

    def _refit(self, weights: Weights, nbytes: int | None, most: int = sys.maxsize) -> None:
        """Spend what the budget leaves on weights, `most` bytes where that is less.

        Raises:
            BudgetError: it does not hold the smallest window.
        """
        room = self._room(weights, nbytes)
        while True:
            try:
                weights.resize(min(room, most))
            except BudgetError:
                # Others take of it at any time: then there is less to spend.
                before, room = room, self._room(weights, nbytes)
                if room >= before:
                    raise
            else:
                return

    def _found(self, weights: Weights, held: Held) -> int:
        """The overhead that the plan counted, or more where the process has grown beyond it."""
        trim_heap()
        beside = self._memory() - self._aside - held.resident_bytes
        counted = self._ledger.used - weights.charged
        return max(held.plan.costs.overhead, self.overhead + beside - counted)

    def _limit_to(self, limit: int | None) -> None:
        """Let the process use so much from now on, as long as such a model is open."""
        if limit is None:
            self._ledger.unlimit(self.owner)
        else:
            self._ledger.limit_to(self.owner, limit, asked=True)
        self._ledger.limit = limit
