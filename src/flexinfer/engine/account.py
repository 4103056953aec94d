"""What one model takes of the process's memory: its budget, what it began with, its overhead."""

from __future__ import annotations

from dataclasses import replace

from flexinfer.engine.options import Options
from flexinfer.machine.machine import process_memory
from flexinfer.memory.ledger import Ledger


class Account:
    """One model in the ledger of the process, from before it is loaded until it is freed.

    Args:
        ledger: of the process.
        options: how the model is to be opened; `budget` has what others left of its budget.
        forked: this process was forked from one that had models.
    """

    def __init__(self, ledger: Ledger, options: Options, *, forked: bool) -> None:
        # Buffers keep it as long as they live, so it must not lead to the model.
        self.owner = object()
        self.options = options
        self.overhead = 0
        self._ledger = ledger
        # The first model bears what the process was before it; later ones what they add, as do
        # those of a process that was forked, whose memory is mostly its parent's.
        self._began = process_memory() if ledger.used or forked else 0
        self._charged_before = ledger.used
        if options.weight_memory is None:
            ledger.limit_to(self.owner, options.budget, asked=options.asked)
            if ledger.free is not None and ledger.used:
                self.options = replace(options, budget=min(options.budget, ledger.free))

    def base(self) -> int:
        """Bytes that the process has come to take for this model, whatever its context."""
        # What was charged meanwhile, adapters for one, is not charged twice.
        meanwhile = self._ledger.used - self._charged_before
        return process_memory() - self._began - meanwhile

    def charge_overhead(self, nbytes: int) -> None:
        self.overhead = nbytes
        self._ledger.charge("overhead", nbytes)

    def limit_to(self, limit: int | None) -> None:
        """Let the process use `limit` bytes from now on, as long as such a model is open."""
        if limit is None:
            self._ledger.unlimit(self.owner)
        else:
            self._ledger.limit_to(self.owner, limit, asked=True)
        self._ledger.limit = limit

    def close(self) -> None:
        """Give everything back that is not the weights'."""
        self._ledger.release("overhead", self.overhead)
        self.overhead = 0
        self._ledger.unlimit(self.owner)
