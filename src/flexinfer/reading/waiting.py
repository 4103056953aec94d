"""Waiting for the drive: bounded, counted, and it can be stopped from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flexinfer.awake import POLL_SECONDS, AwakeClock
from flexinfer.errors import ReadError
from flexinfer.reading.reader import CLOSE_SECONDS, Transfer, Treatment, treated


@dataclass
class Counters:
    """What was read, in bytes, and how long that was waited for, in seconds.

    `treating_s` are those in which whoever had waited treated what was read.
    """

    read_bytes: int = 0
    wait_s: float = 0.0
    treating_s: float = 0.0

    def add(self, other: Counters) -> None:
        self.read_bytes += other.read_bytes
        self.wait_s += other.wait_s
        self.treating_s += other.treating_s

    def timed(self, treat: Treatment | None) -> Treatment | None:
        """`treat`, whose seconds are counted."""
        if treat is None:
            return None

        def counted() -> None:
            began = time.perf_counter()
            treat()
            self.treating_s += time.perf_counter() - began

        return counted


@dataclass
class Waiting:
    """How long to wait for a drive, and who may stop that.

    Attributes:
        check: called while waiting; raises to stop the wait.
        hang_s: a drive that answers nothing for so many seconds is taken for dead; those in which
            this process was stopped do not count.
        cancel_s: a read that was cancelled and does not end for so many seconds is left behind
            with its memory.
        close_s: so many seconds the end of a reader's threads is waited for.
        clock: makes the clock of one wait.
        treats: parts of a stream are treated by whoever waits for them, not by the thread that read
            them. Where no processor is spare that thread takes one from those who compute and wait
            for each other, and asks the drive for nothing meanwhile.
    """

    check: Callable[[], None] = lambda: None
    hang_s: float = 60.0
    cancel_s: float = 2.0
    close_s: float = CLOSE_SECONDS
    clock: Callable[[], Callable[[], float]] = AwakeClock
    treats: bool = False

    def wait_for(self, transfer: Transfer, what: str, treat: Treatment | None = None) -> float:
        """Wait until `transfer` of `what` is done, then `treat` it; returns the seconds waited.

        Raises:
            ReadError: the drive failed, or did not answer for `hang_s`; or `treat` failed.
        """
        waited = 0.0
        if not transfer.done:
            clock = self.clock()
            began = clock()
            while not transfer.wait(min(POLL_SECONDS, self.hang_s)):
                self.check()
                if clock() - began > self.hang_s:
                    raise ReadError(
                        f"{what}: the drive did not answer for {self.hang_s:.0f} s; "
                        "check the drive and try again"
                    )
            waited = clock() - began
        error = transfer.error or treated(treat)
        if error is not None:
            raise error
        return waited
