"""What is known of a model's experts while it runs: counts, who is in memory, which policy is best.

No memory and no reads: it outlives the stores that a change of the plan makes, and it is what users
see as `Llama.experts`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from flexinfer.seam import Batch
from flexinfer.storage.experts.eviction import Choosers
from flexinfer.storage.experts.guesses import Guessing
from flexinfer.storage.experts.slots import SlotTable

# Experts of a layer read before it asks: no drive reads more while a layer's dense part computes.
_MOST_GUESSES = 4

# Called with a group and, for each token of a batch, its experts.
Recorder = Callable[[int, Sequence[Sequence[int]]], None]


@dataclass
class ExpertCounters:
    """Sums since the model was opened.

    Attributes:
        wanted: experts that batches wanted.
        hits: the ones that were in slots, not counting those that were read on a guess.
        guessed: experts read before their layer asked.
        guessed_right: the ones it then asked for.
    """

    wanted: int = 0
    hits: int = 0
    guessed: int = 0
    guessed_right: int = 0

    @property
    def hit_rate(self) -> float:
        return self.hits / self.wanted if self.wanted else 0.0


class Experts:
    """The experts of one model as its passes use them.

    Attributes:
        counters: sums over all passes.
        recorder: called with the routing of each batch, where one is set.
        guessing: whether reading experts before their layer asks pays, as measured.
    """

    def __init__(self) -> None:
        self.counters = ExpertCounters()
        self.recorder: Recorder | None = None
        self.guessing = Guessing(_MOST_GUESSES)
        self._tables: tuple[SlotTable, ...] = ()
        self._choosers = Choosers(())

    def __repr__(self) -> str:
        held = sum(len(table.held) for table in self._tables)
        return f"<Experts {held} in {len(self._tables)} groups, {self.counters.hit_rate:.2f} found>"

    @property
    def resident(self) -> tuple[tuple[int, ...], ...]:
        """For each group the experts in its slots."""
        return tuple(tuple(sorted(table.held)) for table in self._tables)

    @property
    def policy(self) -> str:
        """Name of the eviction policy that does best at the moment."""
        return self._choosers.best

    def arrange(self, tables: Sequence[SlotTable]) -> None:
        """Follow these slots from now on, a table a group."""
        self._tables = tuple(tables)
        self._choosers = Choosers([table.slots for table in tables])

    def note(self, batch: Batch, held: Collection[int]) -> None:
        """Count one batch, of whose experts some were `held`."""
        self.counters.wanted += len(batch.uses)
        self.counters.hits += sum(expert in held for expert in batch.uses)
        self._tables[batch.group].note(batch.uses, batch.tokens)
        if self.recorder is not None:
            self.recorder(batch.group, batch.ids)
        if batch.tokens == 1:
            self._choosers.access(batch.group, batch.uses)
