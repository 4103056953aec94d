"""A model and one that drafts for it in one budget: what the draft gets of it.

Each byte that the draft has is one that the model streams. A draft computes as many times a
pass as it drafts tokens, so it mostly pays to have all of it in memory; where the budget does not
hold that, it streams as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from flexinfer.errors import BudgetError
from flexinfer.planning import planner
from flexinfer.planning.drafted import Drafted, best_draft
from flexinfer.planning.expert_slots import Needs
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes
from flexinfer.planning.plan import Costs, Plan

Point = TypeVar("Point")

# Tokens of a prompt that a draft reads at a time: more are hardly faster in memory, and weights of
# both could have the room for their logits.
DRAFT_UBATCH = 64
# Shares that are tried, from the least that a draft can do with to all of it in memory.
_STEPS = 8


@dataclass(frozen=True)
class Pair:
    """Both plans.

    Attributes:
        target: of the model, in whose process the draft is a part of the overhead.
        draft: of the one that drafts.
        drafted: what the two are expected to reach.
        beside: what the model does beside that draft under any budget.
    """

    target: Plan
    draft: Plan
    drafted: Drafted
    beside: Forecast


@dataclass(frozen=True)
class Believed:
    """What the choice goes by: seconds of passes by their rows, and the share of right tokens."""

    times: RowTimes
    acceptance: float
    most: int
    sequences: int = 1

    def of(self, target: Plan, draft: Plan) -> Drafted:
        """What a model under one plan reaches with a draft under the other."""
        token_s = 1.0 / draft.expected_tok_s
        return best_draft(target, self.times, self.acceptance, self.most, token_s, self.sequences)


def plan_pair(target: Forecast, draft: Forecast, believed: Believed, process: int) -> Pair:
    """The plans of both under the target's budget, or its cap on weights.

    Args:
        process: bytes that the costs of both have, and one process needs only once.

    Raises:
        BudgetError: they do not fit together; says what the draft needs at least.
    """
    capped = target.request.weight_memory is not None
    if capped:
        needs = Needs.of(draft.weights)
        shares = _between(needs.least, needs.whole)
    else:
        shares = _between(draft.smallest, draft.enough)

    def pair(share: int) -> Pair:
        drafting = _within(draft, share).plan()
        if capped:
            beside = _within(target, (target.request.weight_memory or 0) - drafting.held_bytes)
        else:
            beside = _with_overhead(target, drafting.total - process)
        planned = beside.plan()
        return Pair(planned, drafting, believed.of(planned, drafting), beside)

    target.plan()  # whoever does not fit alone is told so
    try:
        found = _fitting(pair, shares)
    except BudgetError as error:
        raise BudgetError(f"with a draft model beside it, {error}") from error
    return max(found, key=lambda one: (one.drafted.tok_s, one.draft.room))


def share_room(target: Plan, draft: Plan, room: int, believed: Believed) -> int:
    """Bytes for the draft's weights, of `room` for those of both; contexts stay as they are.

    Raises:
        BudgetError: it does not hold the smallest windows of both.
    """
    needs = Needs.of(draft.weights)

    def rated(share: int) -> tuple[float, int]:
        drafting = planner.refit(draft, share)
        beside = planner.refit(target, room - drafting.held_bytes)
        return believed.of(beside, drafting).tok_s, share

    return max(_fitting(rated, _between(needs.least, needs.whole)))[1]


def _between(least: int, most: int) -> list[int]:
    return sorted({least + (most - least) * step // _STEPS for step in range(_STEPS)} | {most})


def _fitting(attempt: Callable[[int], Point], shares: Iterable[int]) -> list[Point]:
    """What comes of each share that leaves the model enough.

    Raises:
        BudgetError: that of the smallest, where none does.
    """
    found: list[Point] = []
    refused: BudgetError | None = None
    for share in shares:
        try:
            found.append(attempt(share))
        except BudgetError as error:
            refused = refused or error
    if not found and refused is not None:
        raise refused
    return found


def _within(forecast: Forecast, nbytes: int) -> Forecast:
    request = forecast.request
    if request.weight_memory is not None:
        return replace(forecast, request=replace(request, weight_memory=nbytes))
    return replace(forecast, request=replace(request, budget=nbytes))


def _with_overhead(forecast: Forecast, more: int) -> Forecast:
    costs = forecast.costs

    def with_more(ctx: int, ubatch: int) -> Costs:
        alone = costs(ctx, ubatch)
        return replace(alone, overhead=alone.overhead + more)

    return replace(forecast, costs=with_more)
