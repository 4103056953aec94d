"""Stopping a pass from outside: one flag, which the engine and the waits for the drive look at."""

from __future__ import annotations

import threading


class Interrupted(Exception):
    """The pass was stopped from outside; never leaves the engine."""


class Interrupt:
    """Asks the passes of one model to stop; any thread may ask.

    Attributes:
        closing: the model is being closed, so that no later pass runs either.
    """

    def __init__(self) -> None:
        self.closing = False
        self._asked = threading.Event()

    def __repr__(self) -> str:
        state = "closing" if self.closing else "set" if self._asked.is_set() else "clear"
        return f"<Interrupt {state}>"

    def set(self) -> None:
        """Stop what runs, and what begins before `clear`."""
        self._asked.set()

    def clear(self) -> None:
        self._asked.clear()

    def close(self) -> None:
        """Stop what runs and everything after it."""
        self.closing = True
        self._asked.set()

    def check(self) -> None:
        """Go on, unless that was asked for.

        Raises:
            Interrupted: it was.
        """
        if self._asked.is_set() or self.closing:
            raise Interrupted
