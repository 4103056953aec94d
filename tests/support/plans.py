"""What the engine relies on in every plan."""

from __future__ import annotations

from flexinfer.planning.fitting import is_rigid, locked_cost
from flexinfer.planning.plan import Plan
from flexinfer.planning.weights import ON_DEMAND, piece_cost, row_slices


def assert_sound(made: Plan, room: int) -> None:
    """What the engine relies on, whatever the strategy."""
    assert made.window + locked_cost(made.weights, made.locked_rows) <= room
    for weight, rows in zip(made.weights, made.locked_rows, strict=True):
        assert 0 <= rows <= weight.rows
        if 0 < rows < weight.rows:
            assert not is_rigid(weight)
            assert rows % weight.row_step == 0
            assert weight.rows - rows >= weight.row_step
        if weight.use not in ON_DEMAND:
            for _, count in row_slices(weight, rows, made.slice_bytes):
                assert piece_cost(weight, count) <= made.window
