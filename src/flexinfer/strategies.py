"""What stays in memory: the strategies of the paper's evaluation beside ours.

All share reader, window, ledger and accounting; only the locked set differs, and the window: the
paper's holds three layers. They read layers and roles, which ours never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flexinfer.plan import Weight, piece_cost

MIB = 1 << 20
HUGE_PAGE = 2 * MIB


@dataclass(frozen=True)
class Choice:
    """What a strategy decides; see `Plan` for the fields."""

    locked_rows: tuple[int, ...]
    window: int
    slice_bytes: int
    reasons: tuple[str, ...] = ()


Choose = Callable[[Sequence[Weight], int, int | None], Choice]


@dataclass(frozen=True)
class Strategy:
    """One way to spend a budget.

    Attributes:
        summary: one line for people.
        choose: from (weights, bytes for weights, window asked for) to a choice; None: the
            planner's own.
        lookahead: reads run ahead of the computation.
        locks: it keeps everything in memory when everything fits.
    """

    summary: str
    choose: Choose | None
    lookahead: bool = True
    locks: bool = True


def page_unit(nbytes: int) -> int:
    """What `nbytes` of memory are counted in: huge pages, but small ones below 64 MiB."""
    return HUGE_PAGE if nbytes >= 64 * MIB else 4096


def locked_cost(weights: Sequence[Weight], locked_rows: Sequence[int]) -> int:
    """Bytes that the locked rows of all weights take in memory, in whole pages."""
    total = sum(
        piece_cost(weight, rows)
        for weight, rows in zip(weights, locked_rows, strict=True)
        if rows
    )
    unit = page_unit(total)
    return -(-total // unit) * unit


STRATEGIES: Mapping[str, Strategy] = {
    "flex": Strategy("fill the budget exactly, unlocked bytes spread evenly in time", None),
}
