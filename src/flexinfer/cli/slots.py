"""How many sequences are decoded together: what `--slots` may be, and what a number comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.numbers import Count

if TYPE_CHECKING:
    from flexinfer.planning.forecast import Forecast
    from flexinfer.planning.many import RowTimes, Together

# What `--slots auto` becomes: the number with the highest rate together.
AUTO_SLOTS = 0
_BESIDE = (1, 2, 4, 8, 16, 32, 64)


class Slots(click.ParamType[int]):
    """A number of slots, or `AUTO_SLOTS`."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and value.strip().lower() == "auto":
            return AUTO_SLOTS
        return Count(1).convert(value, param, ctx)


@dataclass(frozen=True)
class SlotPlans:
    """Plans for several numbers of slots of `ctx` tokens: the chosen one, and some beside it."""

    ctx: int
    chosen: Together
    points: list[Together]

    @classmethod
    def of(cls, forecast: Forecast, times: RowTimes, ctx: int, slots: int) -> SlotPlans:
        """For that many slots; for `AUTO_SLOTS` the best number.

        Raises:
            BudgetError: the budget does not hold them.
        """
        from flexinfer.planning.many import best, curve, together

        if slots == AUTO_SLOTS:
            chosen = best(forecast, times, ctx)
        else:
            chosen = together(forecast, times, ctx, slots)
        return cls(ctx, chosen, curve(forecast, times, ctx, {*_BESIDE, chosen.sequences}))

    def document(self) -> dict[str, Any]:
        """As JSON has them."""
        points = [{"slots": point.sequences, **_rates(point)} for point in self.points]
        chosen = {"slots": self.chosen.sequences, "slot_ctx": self.ctx, **_rates(self.chosen)}
        return {**chosen, "slots_curve": points}


def _rates(point: Together) -> dict[str, float]:
    return {
        "each_tok_s": point.each_tok_s,
        "together_tok_s": point.together_tok_s,
        "together_bound_tok_s": point.bound_tok_s,
    }
