"""What a model that drafts takes of a budget that changes, before the model that answers does."""

from __future__ import annotations

from collections.abc import Callable

from flexinfer.engine.engine import Engine
from flexinfer.planning.pair import Believed, share_room
from flexinfer.planning.plan import Plan


def take_share(draft: Engine, target: Plan, room: int, believed: Believed) -> Callable[[], object]:
    """Give `draft` what is best of its own bytes and the `room` for the weights of `target`.

    Returns what takes as many as before.

    Raises:
        BudgetError: they do not hold both.
    """
    before = draft.charged
    draft.resize(share_room(target, draft.storage.plan, room + before, believed))
    return lambda: draft.resize(before)
