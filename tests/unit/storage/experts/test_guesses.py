"""When it pays to read experts before their layer asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexinfer.storage.experts.guesses import Guess, Guessing


def guess(
    right: bool, arrived: float = 1.0, flying: float = 0.0, rank: int = 0, displaced: float = 0.0
) -> Guess:
    """Of an expert that takes a millisecond to read."""
    return Guess(rank, right, 0.001, arrived, flying, displaced)


def test_a_right_guess_gains_what_was_read_of_it() -> None:
    assert guess(True).gain_s == pytest.approx(0.001)
    assert guess(True, arrived=0.25, flying=0.5).gain_s == pytest.approx(0.0005)
    assert guess(True, arrived=0.0, displaced=0.1).gain_s < 0


def test_a_wrong_guess_costs_the_drive_the_processor_and_a_slot() -> None:
    assert guess(False, arrived=0.0).gain_s == 0
    flying = guess(False, arrived=0.0, flying=0.4).gain_s
    assert flying < guess(False, arrived=0.4).gain_s < 0
    assert guess(False, displaced=0.2).gain_s < guess(False).gain_s


def test_right_guesses_go_on_at_all_ranks() -> None:
    guessing = Guessing(3)
    for _ in range(500):
        depth = guessing.depth()
        guessing.note([guess(True, rank=rank) for rank in range(depth)], 1e-4)
    assert guessing.depth() == 3


def test_wrong_guesses_rest_and_are_tried_again() -> None:
    guessing = Guessing(2)
    depths = []
    for _ in range(1000):
        depths.append(depth := guessing.depth())
        if depth:
            guessing.note([guess(False, rank=rank) for rank in range(depth)], 1e-4)
    assert not guessing.pays
    assert 0 < sum(depth > 0 for depth in depths[500:]) < 32


def test_only_ranks_that_gain_are_guessed() -> None:
    guessing = Guessing(4)
    for _ in range(1000):
        depth = guessing.depth()
        guessing.note([guess(rank < 2, rank=rank) for rank in range(depth)], 1e-4)
    assert [guessing.depth() for _ in range(100)].count(2) > 90


def test_a_guess_that_takes_longer_than_it_saves_rests() -> None:
    guessing = Guessing(2)
    for _ in range(1000):
        depth = guessing.depth()
        if depth:
            guessing.note([guess(True, rank=rank) for rank in range(depth)], cost_s=0.01)
    assert not guessing.pays


def test_guessing_comes_back_when_it_pays_again() -> None:
    guessing = Guessing(2)
    for step in range(10_000):
        depth = guessing.depth()
        if depth:
            guessing.note([guess(step > 1000, rank=rank) for rank in range(depth)], 1e-5)
    assert guessing.pays
    assert guessing.depth() == 2


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1)), max_size=200))
def test_the_depth_is_within_its_bounds(notes: list[tuple[bool, float, float]]) -> None:
    guessing = Guessing(3)
    for right, arrived, cost in notes:
        depth = guessing.depth()
        assert 0 <= depth <= 3
        guessing.note([guess(right, arrived, 1 - arrived, rank) for rank in range(depth)], cost)
