"""What other budgets would bring: the smallest, the curve, the one for a rate, the one to advise.

Pure functions of what a plan is made of; each point is a plan of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexinfer.errors import RequestError
from flexinfer.planning import planner
from flexinfer.planning.fitting import everything
from flexinfer.planning.plan import CostsOf, Plan, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Weight
from flexinfer.sizes import format_figure

_MIB = 1 << 20
# Reaching this share of the fastest rate is what a larger budget is advised for.
_NEARLY = 0.95


@dataclass(frozen=True)
class Forecast:
    """One model on one machine under any budget; the fields are those of `planner.plan`."""

    weights: Sequence[Weight]
    request: Request
    costs: CostsOf
    rates: Rates

    def plan(self, budget: int | None = None) -> Plan:
        """The plan for `budget`, by default that of the request.

        Raises:
            BudgetError: it is too small.
        """
        request = self.request if budget is None else replace(self.request, budget=budget)
        return planner.plan(self.weights, request, self.costs, self.rates)

    @property
    def smallest(self) -> int:
        """Bytes of the smallest budget that does."""
        return planner.smallest_budget(self.weights, self.request, self.costs)

    @property
    def enough(self) -> int:
        """Bytes of a budget that holds all that passes read, with context and batch as asked."""
        costs = self.costs(self.request.ctx, self.request.ubatch)
        return planner.budget_for(costs.total + everything(self.weights))

    def curve(self, points: int = 12) -> list[tuple[int, float]]:
        """(budget, tokens/s) from the smallest budget to one that holds everything."""
        first, last = self.smallest, self.enough
        here, step = self.request.budget, max((last - first) // (points - 1), 1)
        even = {_up(first + step * i) for i in range(points)}
        budgets = {budget for budget in even if abs(budget - here) > step // 8}
        if here >= first:
            budgets.add(here)
        return [(budget, self.plan(budget).expected_tok_s) for budget in sorted(budgets)]

    def budget_for(self, rate: float) -> int:
        """Bytes of the smallest budget that is predicted to reach `rate` tokens/s.

        Raises:
            RequestError: the processor cannot, however large the budget.
        """
        low, high = self.smallest, self.enough
        fastest = self.plan(high).expected_tok_s
        if rate > fastest:
            raise RequestError(
                f"{format_figure(rate)} tokens/s are out of reach: with all weights in memory this "
                f"processor makes {format_figure(fastest)}"
            )
        while high - low > _MIB:
            middle = _up((low + high) // 2)
            if middle >= high:
                break
            if self.plan(middle).expected_tok_s >= rate:
                high = middle
            else:
                low = middle
        return low if self.plan(low).expected_tok_s >= rate else high

    def advice(self, most: int) -> tuple[int, float] | None:
        """A larger budget, of at most `most` bytes, that clearly helps, and its tokens/s."""
        if self.request.weight_memory is not None:
            return None
        now = self.plan().expected_tok_s
        fastest = self.plan(max(self.enough, self.request.budget)).expected_tok_s
        if now >= _NEARLY * fastest:
            return None
        budget = min(self.budget_for(_NEARLY * fastest), most)
        if budget <= self.request.budget:
            return None
        rate = self.plan(budget).expected_tok_s
        return (budget, rate) if rate > now / _NEARLY else None


def _up(nbytes: int) -> int:
    return -(-nbytes // _MIB) * _MIB
