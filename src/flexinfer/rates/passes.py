"""What passes showed of processor and drive; no probe is like them."""

from __future__ import annotations

from collections import deque
from statistics import median

# The last so many passes count, and fewer than this say nothing.
_KEPT = 32
_ENOUGH = 4
# Passes that compute longer than the fastest by this factor are no single tokens.
_DECODE = 1.5
# The drive was the limit of a pass that waited for this share of it.
_WAITED = 0.3


class Observed:
    """Rates of one model's recent passes."""

    def __init__(self) -> None:
        self._computed: deque[float] = deque(maxlen=_KEPT)
        self._drive: deque[float] = deque(maxlen=_KEPT)

    def note(self, seconds: float, waited: float, idle: float, nbytes: int) -> None:
        """Take in one pass.

        Args:
            seconds: of the whole pass.
            waited: in which it did not compute.
            idle: in which no read was under way.
            nbytes: that were read.
        """
        self._computed.append(seconds - waited)
        if waited > _WAITED * seconds and seconds > idle:
            self._drive.append(nbytes / (seconds - idle))

    @property
    def compute_s(self) -> float | None:
        """Seconds that one token takes to compute; None before enough were computed."""
        fastest = min(self._computed, default=0.0)
        tokens = [seconds for seconds in self._computed if seconds <= _DECODE * fastest]
        return median(tokens) if len(tokens) >= _ENOUGH else None

    @property
    def drive(self) -> float | None:
        """Bytes/s where the drive was the limit; None where it was not, or not often enough."""
        return median(self._drive) if len(self._drive) >= _ENOUGH else None
