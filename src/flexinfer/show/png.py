"""A plan as a PNG: the grid of layers by tensors over the memory bar."""

from __future__ import annotations

import os
from typing import Any

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.plan import Plan
from flexinfer.show.grid import Cell, Grid
from flexinfer.show.memory import memory_parts
from flexinfer.sizes import format_size

# From streamed to locked; chosen to stay apart in greyscale and for colour-blind eyes.
_COLOURS = ((0.80, 0.86, 0.94), (0.13, 0.40, 0.67))
_ROWS = (0.85, 0.85, 0.85)
_PARTS = {
    "overhead": "0.55",
    "kv": "#b2abd2",
    "compute": "#80cdc1",
    "locked": "#2166ac",
    "window": "#fdb863",
    "free": "0.93",
}


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
    rows = len(grid.kinds) + 1
    figure = Figure(figsize=(9, 2.2 + 0.26 * rows), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(rows, 2.2))
    _draw_grid(above, grid)
    above.set_title(f"{title}\n{plan.mode}", fontsize=10, loc="left")
    _draw_memory(below, plan)
    try:
        figure.savefig(path, dpi=130, format="png")
    except OSError as error:
        raise RequestError(f"{os.fspath(path)} cannot be written: {error.strerror}") from error


def _draw_grid(axes: Any, grid: Grid) -> None:
    others = list(grid.others.values())
    image = [
        [_colour(grid.cells.get((kind, layer), Cell())) for layer in grid.layers]
        for kind in grid.kinds
    ]
    columns = max(len(grid.layers), len(others), 1)
    image = [row + [(1.0, 1.0, 1.0)] * (columns - len(row)) for row in image]
    image.append([_colour(cell) for cell in others] + [(1.0, 1.0, 1.0)] * (columns - len(others)))
    axes.imshow(image, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(image)), [*grid.kinds, "others"], fontsize=7)
    axes.set_xlabel("layer (dark: locked, light: streamed, grey: rows on demand)", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)


def _draw_memory(axes: Any, plan: Plan) -> None:
    at = 0
    for name, nbytes in memory_parts(plan).items():
        label = f"{name} {format_size(nbytes)}"
        axes.barh(0, nbytes, left=at, color=_PARTS[name], label=label)
        at += nbytes
    axes.set_xlim(0, at or 1)
    axes.set_axis_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=8, frameon=False)


def _colour(cell: Cell) -> tuple[float, float, float]:
    if not cell.nbytes:
        return (1.0, 1.0, 1.0)
    if cell.on_demand and cell.share < 1:
        return _ROWS
    light, dark = _COLOURS
    share = cell.share
    red, green, blue = (a + (b - a) * share for a, b in zip(light, dark, strict=True))
    return red, green, blue
