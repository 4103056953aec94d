"""Several sequences a pass: what each and all together reach, and how many are best.

A pass over streamed weights reads the same for one row as for many, so sequences that are decoded
together share its reading. They do not share what each brings along: its KV cache displaces
weights, and its row takes time to compute. So one budget and one context have a best number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from flexinfer.errors import BudgetError
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import Plan
from flexinfer.planning.weights import Weight

# Numbers of sequences that are tried for the best one; between them the rate changes little.
CANDIDATES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)


@dataclass(frozen=True)
class RowTimes:
    """Seconds that a pass takes to compute in memory, by the number of its rows.

    `points` are (rows, seconds) in ascending order, the first of one row.
    """

    points: tuple[tuple[int, float], ...]

    def seconds(self, rows: int) -> float:
        """On the line through the two nearest points; beyond the last one by its row."""
        before = self.points[0]
        for point in self.points:
            if rows <= point[0]:
                if point == before:
                    return point[1]
                share = (rows - before[0]) / (point[0] - before[0])
                return before[1] + share * (point[1] - before[1])
            before = point
        return before[1] * rows / before[0]


@dataclass(frozen=True)
class Together:
    """`sequences` decoded together, one row of each a pass, under one plan.

    `plan` is of a pass: its rates and its context are those of all rows.
    """

    sequences: int
    plan: Plan

    @property
    def each_tok_s(self) -> float:
        """Tokens a second that one of them is expected to get."""
        return self.plan.expected_tok_s

    @property
    def together_tok_s(self) -> float:
        """Tokens a second of all of them."""
        return self.sequences * self.plan.expected_tok_s

    @property
    def bound_tok_s(self) -> float:
        """``n / max(C(n), S(n) / B)``: no schedule of this plan is faster for all of them."""
        return self.sequences * self.plan.bound_tok_s


def together(forecast: Forecast, times: RowTimes, ctx: int, sequences: int) -> Together:
    """The plan for `sequences` of `ctx` tokens each.

    The context does not give way: whoever was promised a slot has its tokens. The batch holds one
    row of each.

    Raises:
        BudgetError: the budget does not hold them.
    """
    pool = sequences * ctx
    one, split = times.seconds(1), forecast.request.split
    longer = times.seconds(sequences) / one if one else float(sequences)
    request = replace(
        forecast.request,
        ctx=pool,
        min_ctx=pool,
        ubatch=max(forecast.request.ubatch, sequences),
        min_ubatch=max(forecast.request.min_ubatch, sequences),
        split=None if split is None else split.longer(longer),
    )
    weights = [_of_rows(weight, sequences) for weight in forecast.weights]
    rates = replace(forecast.rates, compute_s=times.seconds(sequences))
    return Together(sequences, Forecast(weights, request, forecast.costs, rates).plan())


def curve(
    forecast: Forecast, times: RowTimes, ctx: int, numbers: Iterable[int] = CANDIDATES
) -> list[Together]:
    """Those of `numbers` sequences that the budget holds, in ascending order."""
    found = []
    for sequences in sorted(set(numbers)):
        try:
            found.append(together(forecast, times, ctx, sequences))
        except BudgetError:
            break
    return found


def best(forecast: Forecast, times: RowTimes, ctx: int) -> Together:
    """The number of sequences with the highest rate together; of equals the smallest.

    Raises:
        BudgetError: the budget does not hold one sequence.
    """
    points = curve(forecast, times, ctx) or [together(forecast, times, ctx, 1)]
    return max(points, key=lambda point: (point.together_tok_s, -point.sequences))


def slots_of(slots: int, ctx: int) -> str:
    """As ``4 slots of 256 tokens``."""
    return f"{slots} {'slot' if slots == 1 else 'slots'} of {ctx} tokens"


def _of_rows(weight: Weight, rows: int) -> Weight:
    """`weight` as a pass of `rows` rows uses it, each routed to experts of its own choice."""
    if weight.used >= weight.experts:
        return weight
    missed = (1.0 - weight.used / weight.experts) ** rows
    return replace(weight, used=round(weight.experts * (1.0 - missed)))
