"""A model and its draft in one budget: what the draft gets, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.forecasts import MIB, equal_weights, forecast_of

from flexinfer.errors import BudgetError
from flexinfer.planning.drafted import best_draft, expected_tokens, with_steady_batch
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes
from flexinfer.planning.pair import Believed, plan_pair, share_room
from flexinfer.planning.plan import Costs, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Weight

PROCESS = 6 * MIB
# Rows that take next to nothing while the model reads.
TIMES = RowTimes(((1, 0.2), (16, 0.3)))


def small(layers: int = 1, compute_s: float = 0.005) -> Forecast:
    """A draft of 8 MiB and more, which takes some milliseconds a token in memory."""
    weights: list[Weight] = equal_weights(layers)

    def costs(ctx: int, ubatch: int) -> Costs:
        return Costs(overhead=PROCESS + MIB, kv=ctx * 256, compute=ubatch * 256)

    request = Request(budget=0, ctx=512, ubatch=32)
    return Forecast(weights, request, costs, Rates(100.0 * MIB, compute_s, "given"))


def believed(acceptance: float) -> Believed:
    return Believed(TIMES, acceptance, 15)


def test_both_fit_one_budget_and_the_draft_is_locked_first() -> None:
    target = forecast_of(60 * MIB)
    pair = plan_pair(target, small(), believed(0.8), PROCESS)
    assert pair.draft.resident or not pair.draft.streamed_bytes
    alone = target.plan()
    assert pair.target.streamed_bytes > alone.streamed_bytes
    # The process is in the costs of both, and there is one.
    assert pair.target.total <= 60 * MIB
    assert pair.target.costs.overhead == alone.costs.overhead + pair.draft.total - PROCESS
    assert pair.beside.plan() == pair.target
    assert pair.drafted.drafted > 3
    assert pair.drafted.tok_s > 1.5 * alone.expected_tok_s


def test_a_draft_streams_where_the_budget_does_not_hold_it() -> None:
    target, draft = forecast_of(38 * MIB), small(layers=4)
    pair = plan_pair(target, draft, believed(0.8), PROCESS)
    assert pair.draft.streamed_bytes > 0
    assert pair.target.total <= 38 * MIB
    roomy = plan_pair(forecast_of(200 * MIB), draft, believed(0.8), PROCESS)
    assert not roomy.draft.streamed_bytes
    assert not roomy.target.streamed_bytes


def test_a_cap_on_weights_is_shared() -> None:
    capped = forecast_of(0, weight_memory=30 * MIB)
    draft = small()
    draft = replace(draft, request=replace(draft.request, weight_memory=1))
    pair = plan_pair(capped, draft, believed(0.8), PROCESS)
    assert pair.target.held_bytes + pair.draft.held_bytes <= 30 * MIB
    assert not pair.draft.streamed_bytes
    assert pair.target.costs.overhead == capped.plan().costs.overhead


def test_what_does_not_fit_is_refused() -> None:
    alone = forecast_of(0).smallest
    with pytest.raises(BudgetError, match="with a draft model beside it, the budget"):
        plan_pair(forecast_of(alone), small(), believed(0.8), PROCESS)
    with pytest.raises(BudgetError, match=r"^the budget of"):
        plan_pair(forecast_of(alone - MIB), small(), believed(0.8), PROCESS)


def test_a_budget_that_changes_is_shared_anew() -> None:
    pair = plan_pair(forecast_of(60 * MIB), small(layers=4), believed(0.8), PROCESS)
    enough, little = (
        share_room(pair.target, pair.draft, room, believed(0.8)) for room in (90 * MIB, 14 * MIB)
    )
    assert enough > little
    assert little < 14 * MIB
    with pytest.raises(BudgetError, match="one step needs"):
        share_room(pair.target, pair.draft, MIB // 16, believed(0.8))


def test_a_slow_draft_drafts_less_and_a_wrong_one_not_at_all() -> None:
    plan = forecast_of(60 * MIB).plan()
    fast, slow = (best_draft(plan, TIMES, 0.8, token_s=seconds) for seconds in (0.001, 0.1))
    assert fast.drafted > slow.drafted
    assert fast.tokens_a_pass == expected_tokens(0.8, fast.drafted)
    wrong = best_draft(plan, TIMES, 0.0)
    assert wrong.drafted == 0
    assert wrong.tok_s == pytest.approx(plan.expected_tok_s)


def test_the_batch_stays_what_it_would_be_without_drafts() -> None:
    roomy, tight = (
        replace(
            forecast_of(budget * MIB, ubatch=512),
            costs=lambda ctx, ubatch: Costs(8 * MIB, 0, ubatch * MIB // 64),
        )
        for budget in (400, 44)
    )
    assert roomy.plan().ubatch == 512
    assert tight.plan().ubatch < 512
    plain = (roomy.costs, roomy.rates)
    steady = with_steady_batch(tight.weights, tight.request, *plain, beside=356 * MIB)
    assert replace(tight, request=steady).plan().ubatch == 512
    hopeless = forecast_of(MIB).request
    assert with_steady_batch(tight.weights, hopeless, *plain) == hopeless
    least = replace(tight, request=replace(steady, budget=tight.smallest))
    assert least.plan().ubatch < 512, "it gives way where nothing else fits"
