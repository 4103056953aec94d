"""What passes showed of processor and drive; no probe is like them."""

from __future__ import annotations

from collections import deque
from statistics import median

# The last so many passes count for each rate, and fewer than this say nothing.
_KEPT = 32
_ENOUGH = 4
# The drive was the limit of a pass that waited for this share of it.
_WAITED = 0.3
# More rows than this are a prompt's: nobody decodes so many sequences together.
_MOST_ROWS = 64


class Observed:
    """Rates of one model's recent passes."""

    def __init__(self) -> None:
        self._computed: dict[int, deque[float]] = {}
        self._away: deque[float] = deque(maxlen=_KEPT)
        self._drive: deque[float] = deque(maxlen=_KEPT)

    def note(
        self,
        rows: int,
        seconds: float,
        waited: float,
        idle: float,
        nbytes: int,
        away: float = 0.0,
        packing: float = 0.0,
        asking: float = 0.0,
    ) -> None:
        """Take in one pass.

        Args:
            rows: tokens of its batch.
            seconds: of the whole pass.
            waited: in which it did not compute.
            idle: in which no read was under way.
            nbytes: that were read.
            away: in which only other devices computed.
            packing: in which it packed what it had waited for.
            asking: that its reads took from those who compute, had these been at it all the time.
        """
        limited = waited > _WAITED * seconds
        # Where packing, reading and computing share the processors, a pass that waits long for the
        # drive takes several times as long to compute as one that does not.
        if rows <= _MOST_ROWS and not (packing and limited):
            times = self._computed.setdefault(rows, deque(maxlen=_KEPT))
            computed = seconds - waited - away
            times.append(computed - packing - asking * computed / max(seconds, 1e-9))
        if rows == 1:
            self._away.append(away)
        if limited and seconds > idle:
            self._drive.append(nbytes / (seconds - idle))

    @property
    def compute_s(self) -> float | None:
        """Seconds that one token takes to compute; None before enough were computed."""
        return self.by_rows.get(1)

    @property
    def by_rows(self) -> dict[int, float]:
        """Seconds that a pass takes to compute, by its rows, where enough were computed."""
        return {
            rows: median(times)
            for rows, times in sorted(self._computed.items())
            if len(times) >= _ENOUGH
        }

    @property
    def away_s(self) -> float | None:
        """Seconds of one token that pass elsewhere; None before enough were computed."""
        return median(self._away) if len(self._away) >= _ENOUGH else None

    @property
    def drive(self) -> float | None:
        """Bytes/s where the drive was the limit; None where it was not, or not often enough."""
        return median(self._drive) if len(self._drive) >= _ENOUGH else None
