"""A plan in the terminal: the grid of layers by tensors, the memory bar, the table of kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexinfer.planning.many import Together
from flexinfer.planning.plan import Plan
from flexinfer.show.grid import Cell, Grid, memory_parts
from flexinfer.sizes import format_figure, format_size
from flexinfer.text import one_line

_LOCKED, _PARTLY, _STREAMED, _ROWS = "green", "yellow", "blue", "bright_black"
# Rising with the share that is locked; without colours the picture still reads.
_SHADES = "·░▒▓█"
_BAR = 60
_COLOURS = {
    "overhead": "bright_black",
    "kv": "magenta",
    "compute": "cyan",
    "locked": "green",
    "window": "blue",
    "free": "white",
}


@dataclass(frozen=True)
class Band:
    """Neighbouring layers drawn as one character, when there are more than fit."""

    layers: tuple[int, ...]


def picture(plan: Plan, width: int = 100) -> RenderableType:
    """The grid, one line a kind of tensor and one character a layer, with what is beside it."""
    grid = Grid.of(plan)
    label = max((len(name) for name in (*grid.kinds, *grid.others)), default=0) + 2
    bands = _bands(grid.layers, max(width - label - 28, 8))
    table = Table.grid(padding=(0, 1))
    for kind in grid.kinds:
        cells = [_sum(grid, kind, band) for band in bands]
        table.add_row(Text(one_line(kind)), _line(cells), _figures(grid.total(kind)))
    for name, cell in grid.others.items():
        table.add_row(Text(one_line(name)), _line([cell]), _figures(cell))
    return Group(table, _legend(grid, bands))


def memory_bar(plan: Plan, width: int = _BAR) -> RenderableType:
    """What the budget is spent on, as one bar, and the figures under it."""
    parts = memory_parts(plan)
    total = sum(parts.values()) or 1
    bar, legend = Text(), []
    at = drawn = 0
    for name, nbytes in parts.items():
        at += nbytes
        stop = round(width * at / total)
        bar.append("█" * (stop - drawn), _COLOURS[name])
        drawn = stop
        legend.append(Text.assemble(("█ ", _COLOURS[name]), f"{name} {format_size(nbytes)}"))
    return Group(bar, Columns(legend, padding=(0, 3)))


def curve(points: Sequence[tuple[int, float]], here: int, width: int = 40) -> RenderableType:
    """Predicted rates over budgets as horizontal bars; `here` marks the budget of the plan."""
    table = Table("memory", "tokens/s", "", box=None, pad_edge=False)
    table.columns[0].justify = table.columns[1].justify = "right"
    fastest = max((rate for _, rate in points), default=0.0) or 1.0
    for budget, rate in points:
        mark = " ◂ this plan" if budget == here else ""
        bar = "█" * max(round(width * rate / fastest), 1)
        table.add_row(format_size(budget), format_figure(rate), Text(bar, "green") + Text(mark))
    return table


def slots(points: Sequence[Together], chosen: int, width: int = 30) -> RenderableType:
    """Predicted rates of several sequences a pass as bars; `chosen` marks their number."""
    table = Table("slots", "each", "together", "bound", "", box=None, pad_edge=False)
    for column in table.columns[:4]:
        column.justify = "right"
    fastest = max((point.together_tok_s for point in points), default=0.0) or 1.0
    for point in points:
        rates = (point.each_tok_s, point.together_tok_s, point.bound_tok_s)
        mark = " ◂ these" if point.sequences == chosen else ""
        bar = "█" * max(round(width * point.together_tok_s / fastest), 1)
        figures = [format_figure(rate) for rate in rates]
        table.add_row(str(point.sequences), *figures, Text(bar, "green") + Text(mark))
    return table


def render(parts: Sequence[RenderableType], *, width: int | None = None) -> str:
    """`parts` one under the other as plain text."""
    console = Console(width=width, no_color=True, legacy_windows=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()


def _bands(layers: Sequence[int], columns: int) -> list[Band]:
    step = -(-len(layers) // columns) or 1
    return [Band(tuple(layers[i : i + step])) for i in range(0, len(layers), step)]


def _sum(grid: Grid, kind: str, band: Band) -> Cell:
    return sum((grid.cells.get((kind, layer), Cell()) for layer in band.layers), Cell())


def _line(cells: Sequence[Cell]) -> Text:
    line = Text()
    for cell in cells:
        if not cell.nbytes:
            line.append(" ")
        elif cell.share >= 1:
            line.append(_SHADES[-1], _LOCKED)
        elif cell.on_demand:
            line.append("-", _ROWS)
        elif not cell.locked:
            line.append(_SHADES[0], _STREAMED)
        else:
            line.append(_SHADES[1 + min(int(cell.share * 3), 2)], _PARTLY)
    return line


def _figures(cell: Cell) -> Text:
    return Text(f"{format_size(cell.locked):>9} of {format_size(cell.nbytes)}", "bright_black")


def _legend(grid: Grid, bands: Sequence[Band]) -> Text:
    each = len(bands[0].layers) if bands else 1
    text = Text("█", _LOCKED) + Text(" locked  ") + Text("▒", _PARTLY) + Text(" partly  ")
    text += Text("·", _STREAMED) + Text(" streamed  ") + Text("-", _ROWS) + Text(" rows on demand")
    if grid.layers:
        layers = f"layers {grid.layers[0]} to {grid.layers[-1]} from left to right"
        text += Text(f"   ({layers}{f', {each} a character' if each > 1 else ''})")
    return text
