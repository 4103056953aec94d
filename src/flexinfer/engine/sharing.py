"""A model that drafts beside one that answers: its part of the budget of both."""

from __future__ import annotations

from collections.abc import Callable

from flexinfer.engine.engine import Engine
from flexinfer.planning.expert_slots import Needs
from flexinfer.planning.pair import Believed, share_room
from flexinfer.planning.plan import Plan


class Sharing:
    """What the one that drafts has of the budget of both.

    Args:
        engine: that computes it.
        believed: what its share goes by.
    """

    def __init__(self, engine: Callable[[], Engine], believed: Believed) -> None:
        self._engine = engine
        self._believed = believed

    def take(self, target: Plan, room: int) -> Callable[[], object]:
        """Take what is best of its own bytes and the `room` for the weights of `target`.

        Returns what takes as many as before.

        Raises:
            BudgetError: they do not hold both.
        """
        engine = self._engine()
        before = engine.charged
        room += before
        engine.resize(share_room(target, engine.storage.plan, room, self._believed))
        return lambda: engine.resize(before)

    @property
    def yields(self) -> int:
        """Bytes that it could do without."""
        engine = self._engine()
        return engine.charged - Needs.of(engine.storage.plan.weights).least

    def release(self) -> None:
        """Give its weights back until it drafts again."""
        self._engine().release()
