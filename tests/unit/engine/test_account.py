"""A budget that changes while a model is open, over a ledger and an engine that hold no memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from support.weights import MIB, RATES, fixed_costs, llama, total

from flexinfer.engine.account import Account
from flexinfer.engine.options import Options
from flexinfer.errors import BudgetError
from flexinfer.memory.ledger import Ledger
from flexinfer.planning import planner
from flexinfer.planning.plan import Plan, Request

WEIGHTS = llama(layers=4)
OVERHEAD = 100 * MIB
BUDGET = OVERHEAD + total(WEIGHTS) * 2


class Model:
    """Its weights are booked, and all of them are in memory."""

    def __init__(self, *, aside: int = 0) -> None:
        self.ledger = Ledger()
        request = Request(BUDGET, 512, 32)
        self.plan: Plan = planner.plan(WEIGHTS, request, fixed_costs(OVERHEAD), RATES)
        self.beside = aside
        self.charged = 0
        # What others come to hold once it is known how much is left for weights.
        self.taken: list[int] = []
        self.budget = Account(
            self.ledger,
            Options(BUDGET),
            forked=aside > 0,
            memory=lambda: self.beside + self.charged,
        )
        self.budget.hold(OVERHEAD)
        self.beside += OVERHEAD
        self.resize(self.plan.room)
        self.ledger.add_reclaimer(self.reclaim)

    @property
    def resident_bytes(self) -> int:
        return self.plan.held_bytes

    def resize(self, room: int) -> Plan:
        plan = planner.refit(self.plan, room)
        if self.taken:
            self.ledger.charge("contexts", self.taken.pop(0))
        if plan.held_bytes > self.charged:
            more = plan.held_bytes - self.charged
            self.ledger.charge("weights", more, beside=self.reclaim)
        else:
            self.ledger.release("weights", self.charged - plan.held_bytes)
        self.plan, self.charged = plan, plan.held_bytes
        return self.plan

    def reclaim(self, missing: Callable[[], int]) -> int:
        before = self.charged
        with suppress(BudgetError):
            self.resize(before - missing())
        return before - self.charged

    def change(self, nbytes: int) -> None:
        self.budget.change(nbytes, self, self)


def test_what_the_process_grew_by_is_kept_from_weights_as_long_as_it_is_there() -> None:
    model = Model()
    lower = OVERHEAD + total(WEIGHTS) // 2
    model.change(lower)
    without = model.charged
    assert model.budget.overhead == OVERHEAD
    assert model.ledger.used <= lower - planner.margin(lower)
    model.beside += 30 * MIB
    model.change(lower)
    assert model.budget.overhead == OVERHEAD + 30 * MIB
    assert 25 * MIB < without - model.charged < 35 * MIB
    model.change(lower)
    assert model.budget.overhead == OVERHEAD + 30 * MIB, "counted once"
    model.beside -= 60 * MIB
    model.change(lower)
    assert model.budget.overhead == OVERHEAD, "what was planned for may still come"
    assert model.charged == without


def test_a_parents_memory_is_not_this_models() -> None:
    model = Model(aside=500 * MIB)
    model.change(BUDGET)
    assert model.budget.overhead == OVERHEAD


@pytest.mark.parametrize("grown", [0, 30 * MIB])
def test_a_budget_that_is_too_small_leaves_everything_as_it_was(grown: int) -> None:
    model = Model()
    model.change(BUDGET)
    # Less than the budget would let it have.
    model.resize(total(WEIGHTS) // 2)
    model.beside += grown
    before, plan = dict(model.ledger.accounts), model.plan
    with pytest.raises(BudgetError):
        model.change(OVERHEAD + 2 * MIB)
    assert (model.ledger.accounts, model.ledger.limit) == (before, BUDGET)
    assert model.plan == plan


def test_what_others_take_meanwhile_is_not_spent_on_weights() -> None:
    model = Model()
    lower = OVERHEAD + total(WEIGHTS) // 2
    model.change(lower)
    without = model.charged
    model.change(lower - 20 * MIB)
    model.taken = [30 * MIB, 10 * MIB]
    model.change(lower)
    assert model.taken == []
    assert model.ledger.accounts["contexts"] == 40 * MIB
    assert 30 * MIB < without - model.charged < 50 * MIB
    assert model.ledger.used <= lower


@pytest.mark.parametrize("quarters", [1, 99], ids=["some", "more than there is"])
def test_a_budget_that_is_too_small_leaves_what_others_took_meanwhile(quarters: int) -> None:
    model = Model()
    lower = OVERHEAD + total(WEIGHTS) // 2
    model.change(lower)
    before = model.charged

    def share(plan: Plan, room: int) -> Callable[[], object]:
        model.resize(before // 2)
        model.taken = [quarters * (before // 4)]
        raise BudgetError("the model beside it needs more")

    with pytest.raises(BudgetError, match="the model beside it needs more"):
        model.budget.change(lower - 5 * MIB, model, model, share)
    assert model.ledger.limit == lower
    assert model.taken == []
    assert model.charged < before
    assert model.ledger.used <= lower


def test_a_closed_one_gives_its_accounts_and_its_limit_back() -> None:
    model = Model()
    model.change(BUDGET)
    model.resize(model.plan.room)
    model.budget.close()
    assert dict(model.ledger.accounts) == {"weights": model.charged}
    assert model.ledger.limit is None
