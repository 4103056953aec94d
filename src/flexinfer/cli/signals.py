"""Signals that end a command: SIGTERM and SIGHUP unwind it like an exception, once.

A process 1 ends by no signal that it does not handle, so a container could not stop it.
"""

from __future__ import annotations

import signal
from types import FrameType

from flexinfer.engine.process_one import ENDING, handle_ending


class Ended(BaseException):
    """A signal asked this process to end; `code` is what it then exits with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def end_by_signals() -> None:
    """Raise `Ended` where the main thread is, once a signal asks for the end.

    Later signals, Ctrl-C too, find an end under way and change nothing. A signal that is ignored,
    as by nohup, stays so.
    """
    handle_ending(_end)


def _end(number: int, frame: FrameType | None) -> None:
    for each in (*ENDING, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise Ended(number)
