"""As process 1 a program that handles no SIGTERM cannot be stopped; with a model open it ends.

The kernel drops signals of process 1 that it does not handle. Everywhere else handlers are the
program's own affair.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_as_process_one(process: int | None = None) -> None:
    """Have SIGTERM and SIGHUP end this process by `SystemExit`, if it is process 1.

    Args:
        process: its number; by default the one that it has.
    """
    if (os.getpid() if process is None else process) != 1:
        return
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
