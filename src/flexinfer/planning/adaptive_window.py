"""How large the window should be, learned from passes: integers and seconds in, a size out.

A pass loses time where the computation waits for the drive although the drive had nothing to do
at some other moment of the same pass: a larger window would have let the reads run on. Where the
computation waits for a drive that never rests, a smaller window leaves more bytes to lock.
"""

from __future__ import annotations

from collections import Counter, deque
from statistics import median

from flexinfer.planning.fitting import HUGE_PAGE, MIB

# Above this the drive of a machine with few cores had no more to gain in any measurement.
LARGEST = 256 * MIB
# Below this a pass is cut in so many pieces that computing takes longer.
LEAST = 16 * MIB
# A decision needs so many passes alike; fewer follow the noise of a shared drive.
_PASSES = 3
# Of so many it is seen how many rows passes mostly have.
_RECENT = 16
# Shares of a pass: a loss that is worth a larger window; one that is none; and waits that make it
# worth to try a smaller one.
_LOST = 0.04
_NOTHING = 0.01
_WAITS = 0.1
# A larger window has to save at least this share of what was lost.
_HELPS = 0.25


class AdaptiveWindow:
    """One window on its way between `least` and `most` bytes.

    It grows by half while that saves time, shrinks by a third while the drive is busy all the time,
    and remembers what did not work, so that it comes to rest.
    """

    def __init__(self, window: int, least: int, most: int) -> None:
        self.window = window
        self._floor = min(max(least, LEAST), window)
        self._ceiling = max(min(most, LARGEST), window)
        # Rows, and shares that waited and in which the drive rested, since the last decision.
        self._passes: deque[tuple[int, float, float]] = deque(maxlen=_RECENT)
        # Before the last change: the size, what was lost with it, and by how many rows.
        self._before: tuple[int, float, int] | None = None

    def __repr__(self) -> str:
        return f"<AdaptiveWindow {self.window} of {self._floor} to {self._ceiling} bytes>"

    def observe(self, rows: int, seconds: float, waited: float, idle: float) -> int | None:
        """Take in one pass; the size to go over to, or None.

        Passes of as many rows are compared, and those decide that there are most of: one row each
        of the sequences that are decoded. A prompt between them computes much longer and says
        nothing about the tokens after it.

        Args:
            rows: tokens of its batch.
            seconds: of the whole pass.
            waited: in which it did not compute.
            idle: in which no read was under way.
        """
        self._passes.append((rows, waited / seconds, idle / seconds))
        counts = Counter(each for each, _, _ in self._passes)
        if counts[rows] < max(_PASSES, *counts.values()):
            return None
        alike = [shares for each, *shares in self._passes if each == rows]
        waits, idles = (median(shares) for shares in zip(*alike, strict=True))
        self._passes.clear()
        size = self._next(rows, waits, min(waits, idles))
        if size == self.window:
            return None
        self.window = size
        return size

    def _next(self, rows: int, waits: float, lost: float) -> int:
        before, self._before = self._before, None
        if before is not None and before[2] == rows:
            size, lost_then, _ = before
            if size < self.window and lost > lost_then * (1 - _HELPS):
                self._ceiling = size
                return size
            if size > self.window and lost > 2 * _NOTHING:
                self._floor = size
                return size
        if lost > _LOST:
            return self._try(min(_whole(self.window * 3 // 2), self._ceiling), lost, rows)
        if lost < _NOTHING and waits > _WAITS:
            return self._try(max(_whole(self.window * 2 // 3), self._floor), lost, rows)
        return self.window

    def _try(self, size: int, lost: float, rows: int) -> int:
        if size != self.window:
            self._before = self.window, lost, rows
        return size


def _whole(nbytes: int) -> int:
    return max(nbytes // HUGE_PAGE, 1) * HUGE_PAGE
