"""How long passes over several rows take: a probe, corrected by what passes took."""

from __future__ import annotations

import pytest

from flexinfer.planning.many import RowTimes
from flexinfer.rates.row_times import ROWS, added, corrected, undisturbed

PROBED = RowTimes(((1, 0.25), (8, 1.0), (16, 2.0), (32, 4.0)))


def test_rows_add_what_the_probe_says() -> None:
    times = added(0.75, [0.25 * rows for rows in ROWS])
    assert times.points == tuple((rows, 0.5 + 0.25 * rows) for rows in ROWS)


def test_without_passes_the_probe_stands() -> None:
    assert corrected(PROBED, {}) == PROBED


def test_the_curve_goes_through_what_was_seen_and_keeps_its_shape() -> None:
    times = corrected(PROBED, {16: 3.0})
    assert times.seconds(1) == 0.25
    assert times.seconds(16) == pytest.approx(3.0)
    assert times.seconds(32) == pytest.approx(6.0)
    assert 1.0 < times.seconds(8) < 1.5


def test_numbers_that_were_not_probed_become_points() -> None:
    assert corrected(PROBED, {12: 1.8}).seconds(12) == pytest.approx(1.8)


def test_fewer_rows_never_take_longer() -> None:
    times = corrected(PROBED, {8: 2.5, 16: 2.25})
    assert times.seconds(8) <= times.seconds(12) <= times.seconds(16)


def test_a_disturbed_probe_does_not_make_fewer_rows_slower_than_more() -> None:
    assert undisturbed([1.0, 2.0, 9.0, 4.0, 5.0]) == [1.0, 2.0, 4.0, 4.0, 5.0]
    assert undisturbed([3.0, 2.0, 2.5]) == [2.0, 2.0, 2.5]
