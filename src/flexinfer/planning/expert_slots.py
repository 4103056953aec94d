"""One budget for dense weights, the window, and experts.

A byte of a dense weight saves a byte of reading in every token, one of an expert only when that
expert is wanted: dense weights are locked first, what is left becomes slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexinfer.planning.fitting import (
    MIB,
    Choose,
    Fit,
    everything,
    floor_pages,
    least_without_experts,
    whole_pages,
)
from flexinfer.planning.weights import ON_DEMAND, Weight, group_bytes
from flexinfer.sizes import format_size

_MAX_WINDOW = 64 * MIB
_WINDOW_SHARE = 16


@dataclass(frozen=True)
class Needs:
    """What all weights of a model ask for, in bytes.

    Attributes:
        least: the fewest that a pass can do with; of experts, one is in memory at a time.
        whole: passes read nothing any more.
    """

    least: int
    whole: int

    @classmethod
    def of(cls, weights: Sequence[Weight]) -> Needs:
        whole, groups = everything(weights), group_bytes(weights)
        if not groups:
            return cls(min(least_without_experts(weights), whole), whole)
        dense = _dense(weights)
        divided = min(least_without_experts(dense), everything(dense)) + _least_window(groups)
        return cls(min(divided, whole), whole)


def choose_with_experts(
    weights: Sequence[Weight], room: int, window: int | None, choose: Choose
) -> Fit:
    """Divide `room` bytes, of which not all weights fit; `choose` decides about dense weights."""
    groups = group_bytes(weights)
    if not groups:
        return choose(weights, room, window)
    dense = _dense(weights)
    least = _least_window(groups)
    fixed = everything(dense)
    if fixed + least > room:
        chosen = choose(dense, room - least, window)
        return _spread(chosen, weights, slots=(0,) * len(groups), expert_window=least)
    left = room - fixed
    passing = max(floor_pages(min(_MAX_WINDOW, left // _WINDOW_SHARE)), least)
    locked = tuple(0 if weight.use in ON_DEMAND else weight.rows for weight in dense)
    slots = _slots(groups, floor_pages(left - passing), _experts(weights, len(groups)))
    chosen = Fit(locked, 0, 0, (f"dense weights ({format_size(fixed)}) locked",))
    return _spread(
        chosen, weights, slots=slots, expert_window=passing, hit_rate=_hit_rate(weights, slots)
    )


def _dense(weights: Sequence[Weight]) -> list[Weight]:
    return [weight for weight in weights if weight.group is None]


def _least_window(groups: Sequence[int]) -> int:
    return whole_pages(max(groups))


def _experts(weights: Sequence[Weight], groups: int) -> list[int]:
    found = [0] * groups
    for weight in weights:
        if weight.group is not None:
            found[weight.group] = weight.experts
    return found


def _slots(groups: Sequence[int], nbytes: int, experts: Sequence[int]) -> tuple[int, ...]:
    """As many slots in each group as fit, one more in the first ones: all of `nbytes` is used."""
    slots = [0] * len(groups)
    growing = True
    while growing:
        growing = False
        for group, size in enumerate(groups):
            if size <= nbytes and slots[group] < experts[group]:
                slots[group] += 1
                nbytes -= size
                growing = True
    return tuple(slots)


def _hit_rate(weights: Sequence[Weight], slots: Sequence[int]) -> float:
    """Expected share of hits for even routing: that of slots among experts.

    Real routing is less even, so it hits more often.
    """
    used = hits = 0.0
    for weight in weights:
        if weight.group is not None:
            used += weight.token_bytes
            hits += weight.token_bytes * slots[weight.group] / weight.experts
    return hits / used


def _spread(chosen: Fit, weights: Sequence[Weight], **experts: object) -> Fit:
    """The fit of dense weights as one of all."""
    rows = iter(chosen.locked_rows)
    locked = tuple(next(rows) if weight.group is None else 0 for weight in weights)
    full = replace(chosen, locked_rows=locked, **experts)  # type: ignore[arg-type]
    few, many = min(full.slots), max(full.slots)
    count = f"{few}" if few == many else f"{few} to {many}"
    most = max(weight.experts for weight in weights)
    reason = (
        f"{count} of {most} experts a layer stay, about {full.hit_rate:.0%} hits; others pass "
        f"through a window of {format_size(full.expert_window)}"
    )
    return replace(full, reasons=(*chosen.reasons, reason))
