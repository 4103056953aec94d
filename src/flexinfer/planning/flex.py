"""Ours: fill the budget exactly and spread the unlocked bytes evenly in time.

One sequence's rate depends only on the bytes that stream, as long as they come evenly: then the
drive never waits for the computation nor the computation for the drive. Needs sizes, the order of
the graph and compute times; no names. An error diffusion over the weights decides which stay; one
of them stays in part, so that no byte of the budget is left over.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.planning.fitting import (
    MIB,
    Fit,
    floor_pages,
    is_rigid,
    lock_fixed,
    locked_cost,
    page_unit,
    rigid_cost,
    rows_within,
    smallest_window,
)
from flexinfer.planning.weights import ON_DEMAND, SPAN_SLACK, Weight, piece_cost, whole_cost
from flexinfer.sizes import format_size

# The window costs bytes that would else be locked. Below this a drive of 3.5 GB/s is not kept busy
# (32 MiB gave 0.82 to 0.93 of the bound, 64 MiB 0.90 to 0.96), and above it nothing was gained.
MAX_WINDOW = 64 * MIB
# A slower drive is kept busy by less: what it reads in this time.
_WINDOW_SECONDS = 0.035
_MIN_WINDOW = 16 * MIB
# So many pieces go through the window at a time.
_SLICES = 8
# Less than this share of the locked bytes is not worth another partly locked weight.
_ENOUGH = 4096
# A weight is not split so that less than this share of it is locked or streams.
_CRUMB = 8


def balanced(weights: Sequence[Weight], room: int, window: int | None) -> Fit:
    """Window and locked rows for `room` bytes of weights, of which not all fit."""
    size = choose_window(weights, room, window)
    capacity = floor_pages(room - size)
    locked = lock_fixed(weights, capacity)
    fixed = sum(map(bool, locked))
    order = [i for i, w in enumerate(weights) if not locked[i] and w.use not in ON_DEMAND]
    spread = _Spread(weights, locked, order, capacity)
    spread.diffuse(size // 2)
    spread.shrink()
    spread.fill()
    reasons = [
        f"window {format_size(size)}: reads run that far ahead of the computation",
        f"{fixed} small or indivisible weights are locked: they would only cost segments",
        *spread.reasons(),
    ]
    return Fit(tuple(locked), size, size // _SLICES, tuple(reasons))


def with_window(
    weights: Sequence[Weight], room: int, window: int, locked_rows: Sequence[int]
) -> Fit:
    """The locked rows after the window changed: as few others as possible, the rest stays."""
    capacity = floor_pages(room - window)
    fixed = lock_fixed(weights, capacity)
    order = [i for i, w in enumerate(weights) if not fixed[i] and w.use not in ON_DEMAND]
    locked = list(locked_rows)
    spread = _Spread(weights, locked, order, capacity)
    spread.shrink()
    spread.fill()
    return Fit(tuple(locked), window, window // _SLICES, tuple(spread.reasons()))


def window_for(drive: float) -> int:
    """Bytes of a window that keeps a drive of so many bytes/s busy."""
    return min(max(int(drive * _WINDOW_SECONDS), _MIN_WINDOW), MAX_WINDOW)


def choose_window(weights: Sequence[Weight], room: int, asked: int | None) -> int:
    """Bytes of the window: what was asked, or as little as keeps the drive busy."""
    least = smallest_window(weights, room)
    rigid = rigid_cost(weights)
    most = room - rigid if rigid + least <= room else room
    if asked is None:
        asked = min(MAX_WINDOW, room // 4)
    unit = page_unit(room)
    return max(min(asked, most) // unit * unit, least)


class _Spread:
    """Locked rows of the weights in `order`, on their way to an even spread within `capacity`."""

    def __init__(
        self, weights: Sequence[Weight], locked: list[int], order: Sequence[int], capacity: int
    ) -> None:
        self._weights = weights
        self._locked = locked
        self._order = order
        self._capacity = capacity
        self._clock = _clock(weights)

    def reasons(self) -> list[str]:
        held = [(self._weights[i], self._locked[i]) for i in self._order]
        whole = sum(rows == weight.rows for weight, rows in held)
        parts = [(weight, rows) for weight, rows in held if 0 < rows < weight.rows]
        reasons = [f"{whole} of {len(held)} matrices are locked, evenly in time"]
        if len(parts) == 1:
            weight, rows = parts[0]
            reasons.append(
                f"{weight.name} is locked in part, {rows} of {weight.rows} rows: "
                "it uses up the budget"
            )
        elif parts:
            reasons.append(f"{len(parts)} more are locked in part: whole ones come too unevenly")
        return reasons

    def diffuse(self, large: int) -> None:
        """Lock weights so that unlocked bytes grow in step with the compute time.

        Whole ones, as each piece is a segment more; above `large` bytes in part, as one of them
        would fill the window.
        """
        rate = self._rate()
        elapsed = unlocked = 0.0
        free = set(self._order)
        for i, weight in enumerate(self._weights):
            elapsed += self._clock[i]
            if i not in free:
                continue
            behind = rate * elapsed - unlocked
            crumb = weight.nbytes / _CRUMB
            if crumb < behind < weight.nbytes - crumb and self._splits(weight, large):
                self._locked[i] = rows_within(weight, whole_cost(weight) - int(behind))
            elif behind < weight.nbytes / 2:
                self._locked[i] = weight.rows
            unlocked += self._unlocked(i)

    def _splits(self, weight: Weight, large: int) -> bool:
        return weight.nbytes > large and not is_rigid(weight)

    def shrink(self) -> None:
        """Take back what rounding to whole weights locked beyond the capacity."""
        while (excess := -self._left()) > 0:
            i = min((i for i in self._order if self._locked[i]), key=self._lead().__getitem__)
            weight = self._weights[i]
            self._locked[i] = rows_within(weight, piece_cost(weight, self._locked[i]) - excess)

    def fill(self) -> None:
        """Lock more, in whole or in part, where most is unlocked for its time."""
        enough = max(2 * SPAN_SLACK, self._capacity // _ENOUGH)
        left, lead = self._left(), self._lead()
        # A weight that stays in part takes more without another piece.
        for i in sorted(self._order, key=lambda i: (not self._locked[i], -lead[i])):
            if left < enough:
                return
            weight, rows = self._weights[i], self._locked[i]
            held = piece_cost(weight, rows) if rows else 0
            rows = max(rows_within(weight, held + left), rows)
            if rows:
                left -= piece_cost(weight, rows) - held
            self._locked[i] = rows

    def _rate(self) -> float:
        total = sum(whole_cost(self._weights[i]) for i in self._order)
        return max(total - self._left(), 0) / (sum(self._clock) or 1.0)

    def _left(self) -> int:
        return self._capacity - locked_cost(self._weights, self._locked)

    def _lead(self) -> list[float]:
        """How many unlocked bytes more than in an even spread there are after each weight."""
        time = sum(self._clock) or 1.0
        total = sum(map(self._unlocked, range(len(self._weights))))
        lead = []
        elapsed = unlocked = 0.0
        for i, duration in enumerate(self._clock):
            elapsed += duration
            unlocked += self._unlocked(i)
            lead.append(unlocked - total * elapsed / time)
        return lead

    def _unlocked(self, i: int) -> int:
        weight = self._weights[i]
        if weight.use in ON_DEMAND:
            return 0
        return weight.nbytes - weight.row_bytes * self._locked[i]


def _clock(weights: Sequence[Weight]) -> list[float]:
    """What each weight's work takes; bytes stand in for seconds where none are known."""
    known = any(weight.compute_s for weight in weights)
    times = (weight.compute_s if known else float(weight.nbytes) for weight in weights)
    return [
        0.0 if weight.use in ON_DEMAND else time
        for weight, time in zip(weights, times, strict=True)
    ]
