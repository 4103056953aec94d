"""What a report is made of: sections with text, a table, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexinfer.bench.summary import Setting, Summary
from flexinfer.sizes import format_size


@dataclass(frozen=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One part of the report; `plot` names a drawing of `plots` for (summary, setting)."""

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    level: int = 3
    plot: str | None = None
    setting: Setting | None = None
    summary: Summary | None = None


def share_of(summary: Summary, budget: int) -> str:
    """A budget as a share of the weights, and its size."""
    return f"{budget / summary.weights:.0%} ({format_size(budget)})"
