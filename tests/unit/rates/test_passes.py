"""Rates that passes show, and what is kept of them."""

from __future__ import annotations

import pytest

from flexinfer.rates.passes import Observed


def test_tokens_are_told_from_prompts() -> None:
    observed = Observed()
    observed.note(64, 5.0, 0.0, 5.0, 0)
    for seconds in (0.30, 0.32, 0.31):
        observed.note(1, seconds, 0.0, seconds, 0)
        assert observed.compute_s is None
    observed.note(1, 0.41, 0.1, 0.1, 0)
    assert observed.compute_s == pytest.approx(0.31, abs=0.006)


def test_two_tokens_are_no_token_however_fast() -> None:
    observed = Observed()
    for seconds in [0.30] * 4 + [0.33] * 12:
        observed.note(1 if seconds == 0.30 else 2, seconds, 0.0, seconds, 0)
    assert observed.compute_s == pytest.approx(0.30)


def test_a_token_that_took_long_is_a_token() -> None:
    observed = Observed()
    for seconds in [0.1] + [0.3] * 4:
        observed.note(1, seconds, 0.0, seconds, 0)
    assert observed.compute_s == pytest.approx(0.3)


def test_packing_is_no_computing() -> None:
    observed = Observed()
    for _ in range(4):
        observed.note(1, 1.0, 0.2, 0.0, 10**9, packing=0.3)
    assert observed.compute_s == pytest.approx(0.5)


def test_what_reading_takes_while_all_compute_is_no_computing() -> None:
    busy, waiting = Observed(), Observed()
    for _ in range(4):
        busy.note(32, 2.0, 0.0, 0.0, 10**9, packing=0.5, asking=0.25)
        waiting.note(1, 2.0, 1.5, 0.0, 10**9, asking=0.25)
    assert busy.by_rows == {32: pytest.approx(1.25)}
    assert waiting.compute_s == pytest.approx(0.4375), "it reads most while nobody computes"


def test_computing_beside_packing_counts_where_the_drive_was_not_the_limit() -> None:
    observed = Observed()
    for packing in (0.3,) * 4 + (0.0,) * 3:
        observed.note(1, 1.0, 0.4, 0.0, 10**9, packing=packing)
    assert observed.compute_s is None
    observed.note(1, 1.0, 0.4, 0.0, 10**9)
    assert observed.compute_s == pytest.approx(0.6)


def test_what_passes_elsewhere_is_kept_apart() -> None:
    observed = Observed()
    observed.note(32, 9.0, 0.0, 9.0, 0, away=8.0)
    for seconds in (0.5, 0.6, 0.7):
        observed.note(1, seconds, 0.1, 0.1, 0, away=seconds - 0.3)
        assert observed.away_s is None
    observed.note(1, 0.7, 0.1, 0.1, 0, away=0.4)
    assert observed.away_s == pytest.approx(0.35)
    assert observed.compute_s == pytest.approx(0.2)


def test_the_drive_counts_where_it_was_the_limit() -> None:
    observed = Observed()
    for _ in range(8):
        observed.note(1, 1.0, 0.1, 0.0, 10**9)
    assert observed.drive is None
    for _ in range(4):
        observed.note(1, 1.0, 0.6, 0.5, 10**9)
    assert observed.drive == pytest.approx(2e9)


def test_only_recent_passes_count() -> None:
    observed = Observed()
    for seconds in [0.1] * 40 + [0.3] * 32:
        observed.note(1, seconds, 0.0, 0.0, 0)
    assert observed.compute_s == pytest.approx(0.3)


def test_passes_of_as_many_rows_are_compared() -> None:
    observed = Observed()
    for rows, seconds in [(1, 0.2), (8, 0.6)] * 4 + [(512, 9.0)] * 8:
        observed.note(rows, seconds + 1.0, 1.0, 0.0, 0)
    assert observed.by_rows == {1: pytest.approx(0.2), 8: pytest.approx(0.6)}
