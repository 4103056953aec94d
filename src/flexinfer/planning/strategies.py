"""The ways to spend a budget, by name: ours, and those of the paper's evaluation.

All share reader, window, ledger and accounting; only the locked set differs, and the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flexinfer.errors import RequestError
from flexinfer.planning.fitting import Choose, Resize
from flexinfer.planning.flex import balanced, with_window
from flexinfer.planning.paper import (
    ATTENTION,
    FFN,
    algorithm1,
    by_kind,
    leading_layers,
    nothing,
    paper,
)


@dataclass(frozen=True)
class Strategy:
    """One way to spend a budget.

    Attributes:
        summary: one line for people.
        choose: from (weights, bytes for weights, window asked for) to a fit; called when not
            everything fits.
        lookahead: reads run ahead of the computation.
        locks: it keeps everything in memory when everything fits.
        resize: from (weights, bytes for weights, another window, rows locked now) to a fit; None
            where the window stays what it was.
    """

    summary: str
    choose: Choose
    lookahead: bool = True
    locks: bool = True
    resize: Resize | None = None


STRATEGIES: Mapping[str, Strategy] = {
    "flex": Strategy(
        "the budget filled exactly, unlocked bytes spread evenly in time",
        balanced,
        resize=with_window,
    ),
    "algorithm1": Strategy("the paper's Algorithm 1: kinds of tensors by size", paper(algorithm1)),
    "attention-first": Strategy(
        "attention tensors of all layers, then FFN", paper(by_kind(*ATTENTION, *FFN))
    ),
    "ffn-first": Strategy(
        "FFN tensors of all layers, then attention", paper(by_kind(*FFN, *ATTENTION))
    ),
    "layers": Strategy("whole leading layers (unbalanced)", paper(leading_layers)),
    "prefetch": Strategy("no matrix locked, reads run ahead", paper(nothing), locks=False),
    "sync": Strategy(
        "no matrix locked, each read when it is needed",
        paper(nothing),
        lookahead=False,
        locks=False,
    ),
}


def check_strategy(name: str) -> None:
    """Raise `RequestError` unless there is a strategy of that name."""
    if not isinstance(name, str) or name not in STRATEGIES:
        raise RequestError(f"there is no strategy {name!r}; take one of {', '.join(STRATEGIES)}")
