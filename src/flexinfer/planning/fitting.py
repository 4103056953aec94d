"""What a strategy decides, and what every strategy counts with.

A piece is a range of rows of one weight. It is read as the aligned range around it, so each piece
costs a little more memory than it has bytes. Rigid weights are those that cannot be cut: they are
locked or pass through the window whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexinfer.planning.weights import ON_DEMAND, Use, Weight, piece_cost, whole_cost
from flexinfer.sizes import ALIGNMENT

MIB = 1 << 20
HUGE_PAGE = 2 * MIB
# Locking a small tensor saves a segment of the pass; streaming it would gain nothing. Of models
# for tests, only the smallest tensors are small.
_SMALL = MIB
_SMALL_SHARE = 1024
# A window below this share of the weights would make thousands of slices; a slice takes about 3 KB
# of nodes and steps in each program that is kept.
_LEAST_SHARE = 256
# A weight that no known graph uses may come up after all; above this it has to do without.
_MAX_IDLE = 64 * MIB


@dataclass(frozen=True)
class Fit:
    """What a strategy decides; see `Plan` for the fields."""

    locked_rows: tuple[int, ...]
    window: int
    slice_bytes: int
    reasons: tuple[str, ...] = ()
    slots: tuple[int, ...] = ()
    expert_window: int = 0
    hit_rate: float = 0.0


# From (weights, bytes for weights, window asked for) to a fit.
Choose = Callable[[Sequence[Weight], int, int | None], Fit]
# From (weights, bytes for weights, another window, rows locked now) to a fit.
Resize = Callable[[Sequence[Weight], int, int, Sequence[int]], Fit]


def page_unit(nbytes: int) -> int:
    """What `nbytes` of memory are counted in: huge pages, but small ones below 64 MiB."""
    return HUGE_PAGE if nbytes >= 64 * MIB else ALIGNMENT


def whole_pages(nbytes: int) -> int:
    """`nbytes` rounded up to what they are counted in."""
    unit = page_unit(nbytes)
    return -(-nbytes // unit) * unit


def floor_pages(nbytes: int) -> int:
    """`nbytes` rounded down to what they are counted in; never below zero."""
    unit = page_unit(nbytes)
    return max(nbytes, 0) // unit * unit


def locked_cost(weights: Sequence[Weight], locked_rows: Sequence[int]) -> int:
    """Bytes that the locked rows of all weights take in memory, in whole pages."""
    pieces = zip(weights, locked_rows, strict=True)
    return whole_pages(sum(piece_cost(weight, rows) for weight, rows in pieces if rows))


def everything(weights: Sequence[Weight]) -> int:
    """Bytes with which passes read nothing: all that they use locked, a window for idle weights."""
    used = locked_cost(weights, [0 if w.use in ON_DEMAND else w.rows for w in weights])
    return used + idle_window(weights)


def idle_window(weights: Sequence[Weight]) -> int:
    """Bytes of a window for idle weights, should one of them come up after all."""
    sizes = [whole_cost(w) for w in weights if w.use is Use.IDLE]
    return whole_pages(max((size for size in sizes if size <= _MAX_IDLE), default=0))


def is_rigid(weight: Weight) -> bool:
    """The weight cannot be cut in row slices."""
    return not weight.row_step or weight.rows < 2 * weight.row_step


def rigid_cost(weights: Sequence[Weight]) -> int:
    """Bytes that lock all rigid weights that passes read."""
    return whole_pages(sum(map(whole_cost, _rigid(weights))))


def smallest_window(weights: Sequence[Weight], room: int) -> int:
    """The least window that a pass can do with, in bytes, when weights may take `room`.

    Two of the largest pieces: one node may read two weights. Rigid weights count only when
    `room` does not hold all of them locked beside the window of the others.
    """
    least = _window_of_slices(weights)
    if rigid_cost(weights) + least <= room:
        return least
    return max(least, whole_pages(2 * max(map(whole_cost, _rigid(weights)), default=0)))


def least_without_experts(weights: Sequence[Weight]) -> int:
    """The fewest bytes with which a pass streams `weights`, none of them expert by expert."""
    rigid_locked = rigid_cost(weights) + _window_of_slices(weights)
    return min(smallest_window(weights, 0), rigid_locked)


def lock_fixed(weights: Sequence[Weight], capacity: int) -> list[int]:
    """Rows of the weights that every strategy locks first: rigid and small ones, smallest first.

    Rigid ones that do not fit all are left to the window, but for those needed whole.
    """
    locked = [0] * len(weights)
    left = capacity
    for i in _fixed(weights, capacity):
        cost = whole_cost(weights[i])
        if cost > left:
            break
        locked[i] = weights[i].rows
        left -= cost
    return locked


def lock_all(weights: Sequence[Weight], room: int) -> Fit:
    """Lock all that passes use, and in what is left of `room` what they read on demand."""
    locked = [0 if weight.use in ON_DEMAND else weight.rows for weight in weights]
    window = idle_window(weights)
    for i in sorted(range(len(weights)), key=lambda i: weights[i].nbytes):
        if weights[i].use in ON_DEMAND:
            locked[i] = weights[i].rows
            if locked_cost(weights, locked) + window > room:
                locked[i] = 0
    if all(rows for rows, weight in zip(locked, weights, strict=True) if weight.use is Use.IDLE):
        window = 0
    if all(locked):
        reason = "everything fits: all weights are locked"
    else:
        names = [w.name for w, rows in zip(weights, locked, strict=True) if not rows]
        notes = names[0] if len(names) == 1 else f"{len(names)} weights"
        reason = f"everything that each pass reads fits and is locked; not locked: {notes}"
    return Fit(tuple(locked), window, window, (reason,))


def rows_within(weight: Weight, nbytes: int) -> int:
    """How many leading rows fit: all, or a multiple of the step that leaves a step to stream."""
    if whole_cost(weight) <= nbytes:
        return weight.rows
    if is_rigid(weight):
        return 0
    step = weight.row_step
    rows = min((nbytes - piece_cost(weight, 0)) // weight.row_bytes, weight.rows - step)
    return max(rows // step * step, 0)


def _window_of_slices(weights: Sequence[Weight]) -> int:
    """Two of the smallest slices, but not so small that their bookkeeping takes the memory."""
    cut = [w for w in weights if _is_cut(w)]
    largest = max(map(_slice_cost, cut), default=0)
    fewest = sum(w.nbytes for w in cut) // _LEAST_SHARE
    return max(whole_pages(2 * largest), whole_pages(fewest), idle_window(weights))


def _fixed(weights: Sequence[Weight], capacity: int) -> list[int]:
    read = [i for i, weight in enumerate(weights) if weight.use not in ON_DEMAND]
    small = min(_SMALL, sum(weights[i].nbytes for i in read) // _SMALL_SHARE)
    # The window is large enough for rigid ones only where not all of them can be locked.
    all_rigid = rigid_cost(weights) <= capacity
    first = {i for i in read if all_rigid and is_rigid(weights[i])}
    others = {i for i in read if weights[i].nbytes <= small or weights[i].use is Use.WHOLE}
    return sorted(first | others, key=lambda i: (i not in first, weights[i].nbytes))


def _rigid(weights: Sequence[Weight]) -> list[Weight]:
    return [w for w in weights if w.use not in ON_DEMAND and is_rigid(w)]


def _is_cut(weight: Weight) -> bool:
    return weight.use not in ON_DEMAND and not is_rigid(weight)


def _slice_cost(weight: Weight) -> int:
    # The last slice takes the remainder of the rows: at most two steps.
    return piece_cost(weight, 2 * weight.row_step)
