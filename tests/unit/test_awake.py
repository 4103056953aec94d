"""The clock that leaves out the time in which a process was stopped."""

from __future__ import annotations

import pytest

from flexinfer.awake import AwakeClock
from flexinfer.errors import ReadError
from flexinfer.reading.reader import Transfer
from flexinfer.reading.waiting import Waiting


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_gaps_do_not_count() -> None:
    now = Now()
    clock = AwakeClock(now)
    assert clock() == 0.0
    for passed, expected in ((0.1, 0.1), (0.9, 1.0), (3600.0, 1.1), (0.1, 1.2)):
        now.seconds += passed
        assert clock() == pytest.approx(expected)
    assert repr(clock) == "<AwakeClock 1.200 s>"


class Stopped(Transfer):
    """Each time it is waited for, so many seconds are over; then it is done, if ever."""

    def __init__(self, now: Now, seconds: list[float], *, ends: bool) -> None:
        super().__init__()
        self._now = now
        self._left = seconds
        self._ends = ends

    def wait(self, timeout: float | None = None) -> bool:
        self._now.seconds += self._left.pop(0)
        self.done = self._ends and not self._left
        return self.done


def test_a_drive_is_not_blamed_for_a_stop() -> None:
    now = Now()
    waiting = Waiting(hang_s=5.0, clock=lambda: AwakeClock(now))
    transfer = Stopped(now, [0.1, 3600.0, 0.1], ends=True)
    assert waiting.wait_for(transfer, "a weight") == pytest.approx(0.3)


def test_a_drive_that_hangs_is_found_beside_stops() -> None:
    now = Now()
    waiting = Waiting(hang_s=5.0, clock=lambda: AwakeClock(now))
    transfer = Stopped(now, [3600.0, *[0.1] * 40, 7.0, *[0.1] * 20], ends=False)
    with pytest.raises(ReadError, match="did not answer for 5 s"):
        waiting.wait_for(transfer, "a weight")
    assert 10 <= len(transfer._left) <= 13
