"""Words of all kinds of characters, longer than any usual stack holds, by all expressions."""

from __future__ import annotations

from pathlib import Path

from support.long_texts import NAMES, words


def test_each_is_read_or_refused(tmp_path: Path) -> None:
    outcomes = words(tmp_path, 9)
    assert list(outcomes) == NAMES
    assert {len(said) for said in outcomes.values()} == {10}
