"""Ctrl-C at very many random moments."""

from __future__ import annotations

from support.victims.starting import Start, ends


def test_control_c_at_200_random_moments(start: Start) -> None:
    interrupted, wrong = map(int, ends(start("interrupt.py", "200", "2")).split())
    assert wrong == 0
    assert interrupted >= 50
