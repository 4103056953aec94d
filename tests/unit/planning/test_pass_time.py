"""Seconds of a pass, in whole ones: which part of its work decides, and what the others add."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.weights import few

from flexinfer.planning.pass_time import PassTime


def test_while_the_drive_is_slower_it_decides_and_computing_slows_it() -> None:
    time = PassTime(compute=20, read=100)
    assert time.least == 100
    assert time.expected == 103
    assert PassTime(20, 100, pack=40, ask=30).expected == 103, "processors have time for these"


def test_while_the_processors_are_busy_packing_and_asking_come_on_top() -> None:
    plain = PassTime(compute=200, read=100)
    assert plain.least == plain.expected == 200
    packed = PassTime(compute=200, read=100, pack=40, ask=30)
    assert packed.least == 240
    assert packed.expected == 270


def test_asking_decides_where_both_take_nearly_as_long() -> None:
    assert PassTime(compute=100, read=100, ask=10).expected == 115
    assert PassTime(compute=100, read=100, ask=20).expected == 120


def test_without_reading_ahead_all_adds_up() -> None:
    time = PassTime(compute=20, read=100, pack=5, ask=3, ahead=False)
    assert time.least == time.expected == 125


def test_what_is_not_read_costs_nothing() -> None:
    assert PassTime(compute=20, read=0).expected == 20


SECONDS = st.integers(0, 1000)


@few
@given(SECONDS, SECONDS, SECONDS, SECONDS, st.integers(1, 100))
def test_less_than_the_least_is_never_expected_and_more_work_never_takes_less(
    compute: int, read: int, pack: int, ask: int, more: int
) -> None:
    time = PassTime(compute, read, pack, ask)
    assert time.expected >= time.least
    for larger in (
        PassTime(compute + more, read, pack, ask),
        PassTime(compute, read + more, pack, ask),
        PassTime(compute, read, pack + more, ask),
        PassTime(compute, read, pack, ask + more),
    ):
        assert larger.expected >= time.expected
