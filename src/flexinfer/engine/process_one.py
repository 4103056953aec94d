"""As process 1 a program that handles no SIGTERM cannot be stopped; with a model open it ends.

The kernel drops signals of process 1 that it does not handle. Everywhere else handlers are the
program's own affair.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_as_process_one(process: int | None = None) -> None:
    """Have SIGTERM and SIGHUP end this process by `SystemExit`, if it is process 1.

    Args:
        process: its number; by default the one that it has.
    """
    if (os.getpid() if process is None else process) != 1:
        return
    handle_ending(_end)


def handle_ending(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have `handler` get SIGTERM and SIGHUP, unless they are handled or ignored already.

    Python takes handlers from its main thread only; from another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
