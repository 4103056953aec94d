"""Around a call that computes: Ctrl-C stops its passes, then reaches who handles it."""

from __future__ import annotations

import os
import signal

import pytest

from flexinfer.engine.guard import Guard
from flexinfer.engine.interrupts import Interrupt, Interrupted


@pytest.mark.parametrize("error", [None, RuntimeError("2"), OSError("the drive")], ids=str)
def test_a_press_stops_the_passes_and_outranks_what_that_made_fail(
    error: Exception | None,
) -> None:
    interrupt = Interrupt()

    def compute(batch: object) -> None:
        interrupt.check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            interrupt.check()
        if error is not None:
            raise error

    with pytest.raises(KeyboardInterrupt):
        Guard(interrupt, object()).wrap(compute)(None)
    interrupt.check()
