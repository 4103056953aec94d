"""Signals of a serving process: the first ends it in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
# Whoever asked for the end waits no longer than this for open connections.
_GRACE_SECONDS = 1.6


class Ending:
    """Takes the signals of the whole process from `begin` on.

    That must come before any other thread is started, those that compute included: a signal goes to
    whichever thread does not block it, and is lost on one that never runs Python.
    """

    def __init__(self) -> None:
        self._end: Callable[[], None] | None = None
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """The process is to end."""
        return self._asked.is_set()

    def call(self, end: Callable[[], None]) -> None:
        """Have the end made by `end`, called once; until then the process just ends."""
        self._end = end

    def begin(self) -> None:
        # llama.cpp's own handler locks a mutex inside the signal: here none is ever delivered.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=self._wait, name="flexinfer-signals", daemon=True).start()

    def _wait(self) -> None:
        signal.sigwait(_SIGNALS)
        self._asked.set()
        threading.Thread(target=self._leave, name="flexinfer-end", daemon=True).start()
        signal.sigwait(_SIGNALS)
        os._exit(1)

    def _leave(self) -> None:
        if self._end is None:
            os._exit(1)
        last = threading.Timer(_GRACE_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()
        self._end()
