"""Rates that passes show, and what is kept of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flexinfer.rates.cache_file import Remembered, cache_folder
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


def test_what_is_put_is_there_for_a_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Remembered(tmp_path / "cache")
    assert memory.get("a") is None
    memory.put("a", {"rate": 1.0})
    memory.put("b", {"rate": 2.0})
    found = Remembered(tmp_path / "cache").get("a")
    assert found is not None
    assert found["rate"] == 1.0
    now = found["when"]
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600.0)
    assert memory.get("b") is None


def test_cache_folder_is_ours() -> None:
    assert cache_folder().name == "flexinfer"
