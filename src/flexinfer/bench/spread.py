"""One figure over the rounds of a benchmark: its median and its extremes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from flexinfer.sizes import format_figure


@dataclass(frozen=True)
class Spread:
    """Median and extremes of one figure over rounds."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None without values."""
        known = list(values)
        if not known:
            return None
        return cls(statistics.median(known), min(known), max(known), len(known))

    def shown(self) -> str:
        """As ``1.23 (1.20-1.31)``; the median alone where there is one value."""
        if self.count == 1:
            return format_figure(self.median)
        return (
            f"{format_figure(self.median)} ({format_figure(self.least)}-{format_figure(self.most)})"
        )

    def scaled(self, factor: float) -> Spread:
        """In another unit: each value times `factor`."""
        return Spread(self.median * factor, self.least * factor, self.most * factor, self.count)
