"""Counts that add up field by field."""

from __future__ import annotations

from dataclasses import dataclass

from flexinfer.planning.sums import Sums


@dataclass(frozen=True)
class Passes(Sums):
    count: int = 0
    seconds: float = 0.0


def test_each_field_by_itself() -> None:
    before = Passes(2, 0.5)
    after = before + Passes(3, 1.0)
    assert after == Passes(5, 1.5)
    assert after - before == Passes(3, 1.0)
    assert (before.count, before.seconds) == (2, 0.5)
