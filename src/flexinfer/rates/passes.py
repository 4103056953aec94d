"""What passes showed of processor and drive; no probe is like them."""

from __future__ import annotations

from collections import deque
from statistics import median

# The last so many passes count for each rate, and fewer than this say nothing.
_KEPT = 32
_ENOUGH = 4
# The drive was the limit of a pass that waited for this share of it.
_WAITED = 0.3


class Observed:
    """Rates of one model's recent passes."""

    def __init__(self) -> None:
        self._computed: deque[float] = deque(maxlen=_KEPT)
        self._drive: deque[float] = deque(maxlen=_KEPT)

    def note(
        self,
        rows: int,
        seconds: float,
        waited: float,
        idle: float,
        nbytes: int,
        away: float = 0.0,
    ) -> None:
        """Take in one pass.

        Args:
            rows: tokens of its batch.
            seconds: of the whole pass.
            waited: in which it did not compute.
            idle: in which no read was under way.
            nbytes: that were read.
            away: in which only other devices computed.
        """
        if rows == 1:
            self._computed.append(seconds - waited - away)
        if waited > _WAITED * seconds and seconds > idle:
            self._drive.append(nbytes / (seconds - idle))

    @property
    def compute_s(self) -> float | None:
        """Seconds that one token takes to compute; None before enough were computed."""
        return median(self._computed) if len(self._computed) >= _ENOUGH else None

    @property
    def drive(self) -> float | None:
        """Bytes/s where the drive was the limit; None where it was not, or not often enough."""
        return median(self._drive) if len(self._drive) >= _ENOUGH else None
