"""Streams decoded together, in the report: what they reach by their number, beside the bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flexinfer.bench.sections import Section, Table, share_of
from flexinfer.bench.spread import Spread
from flexinfer.bench.summary import Setting, Summary, settings_of

_HEADER = (
    "budget",
    "cache",
    "slots",
    "tokens/s",
    "times one",
    "bound",
    "of it",
    "predicted",
    "llama-server",
)
_NOTE = (
    "One server, each of its slots decoding a stream: tokens a second of all, counted by its "
    "engine between two ends of passes. The bound is n / max(C(n), S(n) / B): C(n) a pass of "
    "llama.cpp over n rows with the same kernels and all weights in memory, S(n) what the plan "
    "streams beside the caches of n, B our reader with nothing computed. `llama-server` is "
    "llama.cpp's own, --no-repack with the model mapped, with as many slots in the same group."
)


@dataclass(frozen=True)
class Point:
    """`slots` in one budget; rates are tokens/s of all of them together."""

    budget: int
    kv: str
    slots: int
    rate: Spread
    bound: Spread
    share: Spread
    predicted: Spread
    plain: Spread | None


def points(summary: Summary, setting: Setting) -> list[Point]:
    """What was measured in a setting, by budget, kind of cache and number."""
    found: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    for run in summary.together:
        if (run["drive"], run["cores"]) == (setting.drive, setting.cores):
            found.setdefault((run["budget"], run["kv"], run["slots"]), []).append(run)
    made = [_point(kind, runs) for kind, runs in sorted(found.items())]
    return [point for point in made if point is not None]


def _point(kind: tuple[int, str, int], runs: Sequence[dict[str, Any]]) -> Point | None:
    ours = [run for run in runs if "tok_s" in run]
    rate, bound, predicted = (
        Spread.of(run[name] for run in ours) for name in ("tok_s", "bound_tok_s", "predicted_tok_s")
    )
    share = Spread.of(run["tok_s"] / run["bound_tok_s"] for run in ours)
    plain = Spread.of(run["plain_tok_s"] for run in runs if "plain_tok_s" in run)
    if rate is None or bound is None or share is None or predicted is None:
        return None
    return Point(*kind, rate, bound, share, predicted, plain)


def together_sections(summary: Summary) -> Iterator[Section]:
    """A table and a plot for each setting in which streams were measured."""
    for setting in settings_of(summary.together):
        table = _table(summary, points(summary, setting))
        title = f"Streams together, {setting.label}"
        yield Section(title, (_NOTE,), table, plot="together", setting=setting, summary=summary)


def _table(summary: Summary, found: Sequence[Point]) -> Table:
    ones = {(each.budget, each.kv): each.rate.median for each in found if each.slots == 1}
    rows = []
    for each in found:
        one = ones.get((each.budget, each.kv))
        times = f"{each.rate.median / one:.1f}" if one else "-"
        spreads = (each.bound, each.share, each.predicted, each.plain)
        shown = ["-" if spread is None else spread.shown() for spread in spreads]
        name = [share_of(summary, each.budget), each.kv, str(each.slots)]
        rows.append([*name, each.rate.shown(), times, *shown])
    return Table(_HEADER, rows)
