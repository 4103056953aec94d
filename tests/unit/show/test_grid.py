"""What pictures show: each byte once, and the whole budget."""

from __future__ import annotations

from support.forecasts import MIB, forecast_of

from flexinfer.planning.plan import Plan
from flexinfer.show.grid import Grid, memory_parts


def test_the_grid_counts_every_byte_once(plan: Plan) -> None:
    grid = Grid.of(plan)
    assert grid.kinds == ("attn_q", "ffn_up", "small")
    assert grid.layers == tuple(range(8))
    cells = [*grid.cells.values(), *grid.others.values()]
    assert sum(cell.nbytes for cell in cells) == plan.weight_bytes
    assert sum(cell.locked for cell in cells) == plan.locked_bytes


def test_no_budget_has_nothing_free() -> None:
    assert "free" not in memory_parts(forecast_of(1, weight_memory=30 * MIB).plan())
