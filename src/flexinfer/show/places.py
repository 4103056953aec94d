"""Which layer lives where: a row a place, in the order of the layers."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexinfer.planning.plan import Plan
from flexinfer.planning.split import Share, Split
from flexinfer.sizes import format_size
from flexinfer.text import one_line

_HERE, _AWAY = "green", "cyan"


def places(plan: Plan, split: Split, width: int = 40) -> RenderableType:
    """One bar over all layers, then each place with its layers, weights and time a token."""
    here = 1.0 / plan.expected_tok_s - split.away_s
    first = sum(share.layers for share in split.before)
    ours = Share("here", first, split.here, plan.weight_bytes, here)
    shares = [
        share for share in (*split.before, ours, *split.after) if share.layers or share is ours
    ]
    bar = Text()
    table = Table("layers", "where", "weights", "ms a token", box=None, pad_edge=False)
    for column in (table.columns[2], table.columns[3]):
        column.justify = "right"
    at = drawn = 0
    for number, share in enumerate(shares):
        at += share.layers
        stop = round(width * at / split.layers)
        style = _HERE if share is ours else _AWAY
        bar.append("█▓▒░"[number % 4] * (stop - drawn), style)
        drawn = stop
        figures = format_size(share.nbytes), f"{1000 * share.seconds:.0f}"
        table.add_row(_numbers(share, split), Text(one_line(share.name), style), *figures)
    left = [Text(one_line(reason)) for reason in split.notes]
    return Group(bar, table, *left)


def _numbers(share: Share, split: Split) -> str:
    """The numbers of its layers; the one after the last is the output."""
    if not share.layers:
        return "embedding"
    last, output = share.first + share.layers - 1, split.layers - 1
    blocks = range(share.first, min(last + 1, output))
    numbers = f"{blocks.start}-{blocks.stop - 1}" if blocks else ""
    return ", ".join(filter(None, [numbers, "output" if last == output else ""]))
