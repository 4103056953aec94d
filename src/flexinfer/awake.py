"""A clock that stands still while this process is stopped: by a signal, or with its container."""

from __future__ import annotations

import time
from collections.abc import Callable

# Whoever uses the clock looks at it at least so often.
POLL_SECONDS = 0.1
# Not looked at for so long, it was not in the hands of who looks.
_STOPPED_SECONDS = 1.0


class AwakeClock:
    """Seconds that pass while somebody looks at it every `POLL_SECONDS`.

    No clock of the system tells the time in which a process was stopped.

    Args:
        clock: of the system, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last = clock()
        self._seconds = 0.0

    def __repr__(self) -> str:
        return f"<AwakeClock {self._seconds:.3f} s>"

    def __call__(self) -> float:
        """Seconds since it was made."""
        now = self._clock()
        passed, self._last = now - self._last, now
        self._seconds += POLL_SECONDS if passed > _STOPPED_SECONDS else passed
        return self._seconds
