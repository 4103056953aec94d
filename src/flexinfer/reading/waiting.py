"""Waiting for the drive: bounded, and it can be stopped from outside."""

from __future__ import annotations

import time
from collections.abc import Callable

from flexinfer.errors import ReadError
from flexinfer.reading.file_reader import Transfer

# A drive that answers nothing for this long is taken for dead.
HANG_SECONDS = 60.0
# A read that was cancelled and does not end for this long is left behind with its memory.
CANCEL_SECONDS = 2.0
_POLL_SECONDS = 0.1


def wait_for(transfer: Transfer, what: str, check: Callable[[], None]) -> float:
    """Wait until `transfer` is done; returns the seconds it took.

    Args:
        what: is read, for the message.
        check: called while waiting; raises to stop the wait.

    Raises:
        ReadError: the drive failed, or did not answer for `HANG_SECONDS`.
    """
    waited = 0.0
    if not transfer.done:
        began = time.perf_counter()
        while not transfer.wait(min(_POLL_SECONDS, HANG_SECONDS)):
            check()
            if time.perf_counter() - began > HANG_SECONDS:
                raise ReadError(
                    f"{what}: the drive did not answer for {HANG_SECONDS:.0f} s; "
                    "check the drive and try again"
                )
        waited = time.perf_counter() - began
    if transfer.error is not None:
        raise transfer.error
    return waited
