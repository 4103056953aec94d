from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexinfer.errors import BudgetError
from flexinfer.machine.auto_budget import (
    AutoBudget,
    Follower,
    Look,
    Move,
    look_at_machine,
    pressure,
)

GIB = 1 << 30


def test_less_room_takes_effect_at_once() -> None:
    budget = AutoBudget(4 * GIB)
    move = budget.decide(Look(3 * GIB, 0.0), now=0.0)
    assert move == Move(4 * GIB, 3 * GIB, "less memory is available")
    assert budget.budget == 3 * GIB
    assert str(move) == "memory budget 4.00 GiB -> 3.00 GiB: less memory is available"


def test_more_room_counts_once_it_stayed() -> None:
    budget = AutoBudget(2 * GIB)
    assert budget.decide(Look(4 * GIB, 0.0), now=0.0) is None
    assert budget.decide(Look(4 * GIB, 0.0), now=9.0) is None
    assert budget.decide(Look(2 * GIB, 0.0), now=9.5) is None  # it went: begin again
    assert budget.decide(Look(4 * GIB, 0.0), now=10.0) is None
    assert budget.decide(Look(4 * GIB, 0.0), now=19.9) is None
    move = budget.decide(Look(4 * GIB, 0.0), now=20.0)
    assert move is not None
    assert move.after == 4 * GIB


def test_pressure_shrinks_in_steps_and_blocks_growth() -> None:
    budget = AutoBudget(8 * GIB)
    move = budget.decide(Look(8 * GIB, 30.0), now=0.0)
    assert move is not None
    assert move.after == 7 * GIB
    assert "pressure (30 %)" in move.reason
    assert budget.decide(Look(8 * GIB, 30.0), now=1.0) is None
    assert budget.decide(Look(8 * GIB, 30.0), now=5.0) is not None
    assert budget.decide(Look(16 * GIB, 5.0), now=6.0) is None
    assert budget.decide(Look(16 * GIB, 5.0), now=60.0) is None


@given(st.lists(st.tuples(st.integers(950, 1050), st.just(0.0)), min_size=1, max_size=60))
def test_small_changes_move_it_rarely(looks: list[tuple[int, float]]) -> None:
    """Rooms within five percent of each other never make it move up and down."""
    budget = AutoBudget(1000)
    moves = [budget.decide(Look(room, psi), now=float(n)) for n, (room, psi) in enumerate(looks)]
    found = [move for move in moves if move is not None]
    assert all(move.after < move.before for move in found)
    assert budget.budget >= 950


class Target:
    def __init__(self) -> None:
        self.least = 0
        self._memory = 1000

    @property
    def memory(self) -> int:
        return self._memory

    @memory.setter
    def memory(self, budget: int) -> None:
        if budget < self.least:
            raise BudgetError("too small")
        self._memory = budget


def test_a_refused_move_is_tried_again() -> None:
    target, told = Target(), list[Move]()
    follower = Follower(target, moved=told.append, look=lambda: Look(500, 0.0), every=3600.0)
    target.least = 800
    assert follower.step(0.0) is None
    assert target.memory == 1000
    target.least = 0
    assert follower.step(1.0) == Move(1000, 500, "less memory is available")
    assert target.memory == 500
    assert told == [Move(1000, 500, "less memory is available")]
    follower.close()


@pytest.mark.usefixtures("no_leaks")
def test_it_follows_by_itself_until_closed() -> None:
    target, moved = Target(), threading.Event()
    follower = Follower(
        target, moved=lambda _: moved.set(), look=lambda: Look(700, 0.0), every=0.01
    )
    assert moved.wait(10)
    assert target.memory == 700
    follower.close()


def test_pressure_is_read_where_the_kernel_has_it(tmp_path: Path) -> None:
    assert pressure(tmp_path) == 0.0
    (tmp_path / "pressure").mkdir()
    text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=99.00 avg60=0 total=1\n"
    (tmp_path / "pressure/memory").write_text(text)
    assert pressure(tmp_path) == 12.5
    assert look_at_machine().room > 0
