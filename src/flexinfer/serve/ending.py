"""Signals of a serving process: the first ends it in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from flexinfer.errors import RequestError

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
# Whoever asked for the end waits no longer than this for open connections.
_GRACE_SECONDS = 1.6


class Ending:
    """Takes the signals of the whole process from `begin` on.

    That must come before any other thread is started, those of libraries included, which start some
    when they are imported: a signal goes to whichever thread does not block it, and is lost on one
    that never runs Python.

    Args:
        pipe: read from; its end counts as a signal, so that no child outlives its parent.
    """

    def __init__(self, pipe: int | None = None) -> None:
        self._pipe = pipe
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
        """From now on signals end the process as described.

        Raises:
            RequestError: the pipe is none.
        """
        if self._pipe is not None:
            try:
                os.fstat(self._pipe)
            except OSError as error:
                raise RequestError(f"--end-with-fd {self._pipe}: {error.strerror}") from error
        # llama.cpp's own handler locks a mutex inside the signal: here none is ever delivered.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=self._wait, name="flexinfer-signals", daemon=True).start()
        if self._pipe is not None:
            follow = threading.Thread(target=self._follow, args=(self._pipe,), daemon=True)
            follow.start()

    def _follow(self, pipe: int) -> None:
        with suppress(OSError):
            while os.read(pipe, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

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
