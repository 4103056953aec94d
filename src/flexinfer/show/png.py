"""A plan as a PNG: the grid of layers by tensors over the memory bar."""

from __future__ import annotations

import os
from typing import Any

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.planning.plan import Plan
from flexinfer.show.grid import Cell, Grid, memory_parts
from flexinfer.sizes import format_size
from flexinfer.text import one_line

# Colours stay apart in greyscale and for colour-blind eyes: dark is what stays in memory.
_LOCKED, _STREAMED, _ROWS = (0.13, 0.40, 0.67), (0.80, 0.86, 0.94), (0.85, 0.85, 0.85)
_HATCH = "///"
_PARTS = {
    "overhead": "0.55",
    "kv": "#b2abd2",
    "compute": "#80cdc1",
    "locked": _LOCKED,
    "window": "#fdb863",
    "free": "0.93",
}
# Readable where a picture is shown at two thirds of its size.
_FONT, _SMALL = 12, 10.5


def save_png(plan: Plan, path: str | os.PathLike[str], title: str) -> None:
    """Draw `plan` into a PNG file.

    Raises:
        UnsupportedError: matplotlib is not installed.
        RequestError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "pictures need matplotlib; install it with: pip install 'flexinfer[plot]'"
        ) from error
    grid = Grid.of(plan)
    rows = len(grid.kinds) + len(grid.others)
    figure = Figure(figsize=(10.5, 2.4 + 0.3 * rows), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(rows, 1.5))
    _draw_grid(above, grid)
    budget = plan.request.budget if plan.request.weight_memory is None else None
    within = f" in {format_size(budget)}" if budget else ""
    above.set_title(
        f"{one_line(title)}{within}",
        fontsize=_FONT + 1,
        loc="left",
        weight="bold",
        pad=24,
        parse_math=False,
    )
    above.text(0, 1.02, plan.mode, fontsize=_SMALL, transform=above.transAxes, va="bottom")
    _draw_memory(below, plan)
    try:
        figure.savefig(path, dpi=130, format="png")
    except OSError as error:
        raise RequestError(f"{os.fspath(path)} cannot be written: {error.strerror}") from error


def _draw_grid(axes: Any, grid: Grid) -> None:
    """One row for each kind with a box a layer, and one long box for each other weight."""
    columns = max(len(grid.layers), 1)
    labels = []
    for row, kind in enumerate(grid.kinds):
        for column, layer in enumerate(grid.layers):
            _draw_box(axes, row, column, 1, grid.cells.get((kind, layer), Cell()))
        labels.append((kind, grid.total(kind)))
    for name, cell in grid.others.items():
        _draw_box(axes, len(labels), 0, columns, cell)
        labels.append((name, cell))
    axes.set_xlim(-0.2, columns + 0.2)
    axes.set_ylim(len(labels), -0.1)
    axes.set_yticks(
        [row + 0.45 for row in range(len(labels))],
        [one_line(name) for name, _ in labels],
        parse_math=False,
    )
    step = max(columns // 8, 1)
    axes.set_xticks([at + 0.45 for at in range(0, columns, step)], grid.layers[::step])
    axes.set_xlabel("layer", fontsize=_SMALL, loc="left")
    axes.tick_params(labelsize=_SMALL, length=0)
    axes.spines[:].set_visible(False)
    for row, (_, cell) in enumerate(labels):
        held = f"{format_size(cell.locked)} of {format_size(cell.nbytes)}"
        place = (columns * 1.01 + 0.2, row + 0.45)
        axes.text(*place, held, fontsize=_SMALL - 1, va="center", color="0.3")
    axes.barh(0, 0, color=_LOCKED, label="locked")
    axes.barh(0, 0, color=_STREAMED, label="streamed")
    axes.barh(0, 0, color=_ROWS, hatch=_HATCH, edgecolor="white", label="rows on demand")
    _legend(axes, "upper right", (1.0, -0.075), 3)


def _draw_box(axes: Any, row: int, column: int, width: int, cell: Cell) -> None:
    """The locked share of a box is dark, from the left."""
    if not cell.nbytes:
        return
    size, dark = width - 0.1, (width - 0.1) * cell.share
    if cell.on_demand:
        light = {"color": _ROWS, "hatch": _HATCH, "edgecolor": "white", "linewidth": 0}
    else:
        light = {"color": _STREAMED}
    axes.barh(row, size, left=column, height=0.9, align="edge", **light)
    axes.barh(row, dark, left=column, height=0.9, align="edge", color=_LOCKED)


def _draw_memory(axes: Any, plan: Plan) -> None:
    at = 0
    for name, nbytes in memory_parts(plan).items():
        label = f"{name} {format_size(nbytes)}"
        axes.barh(0, nbytes, left=at, color=_PARTS[name], label=label)
        at += nbytes
    axes.set_xlim(0, at or 1)
    axes.set_axis_off()
    axes.set_title("memory", fontsize=_FONT, loc="left")
    _legend(axes, "upper left", (0.0, 0.05), 6)


def _legend(axes: Any, place: str, at: tuple[float, float], columns: int) -> None:
    axes.legend(
        loc=place,
        bbox_to_anchor=at,
        ncols=columns,
        fontsize=_SMALL,
        frameon=False,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.0,
        handletextpad=0.4,
        borderpad=0,
    )
