"""Where the bytes of each weight are now: locked, passing through, or expert by expert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flexinfer.seam import Layout
from flexinfer.storage.experts.store import ExpertStore
from flexinfer.storage.layouts import Held
from flexinfer.storage.stream import Stream


@dataclass(frozen=True)
class Presence:
    """Bytes in memory of each weight, in the order of the plan.

    Attributes:
        locked: of rows that stay.
        passing: in the window of streamed weights or of experts.
        experts: of experts in slots.
    """

    locked: tuple[int, ...]
    passing: tuple[int, ...]
    experts: tuple[int, ...]


def look(
    held: Sequence[Held],
    layouts: Mapping[int, Layout],
    stream: Stream,
    store: ExpertStore | None,
) -> Presence:
    """Look at all of it once; a pass may go on meanwhile."""
    if store is None:
        return presence(held, layouts, stream.passing, ())
    return presence(held, layouts, stream.passing + store.window.passing, store.experts.resident)


def presence(
    held: Sequence[Held],
    layouts: Mapping[int, Layout],
    passing: Iterable[tuple[str, int]],
    resident: Sequence[Sequence[int]],
) -> Presence:
    """What that comes to.

    Args:
        held: all weights, in the order of the plan.
        passing: weights and bytes in windows.
        resident: for each group the experts in its slots.
    """
    through: Counter[str] = Counter()
    for name, nbytes in passing:
        through[name] += nbytes
    found = [layouts.get(one.address) for one in held]
    return Presence(
        tuple(_locked(layout) for layout in found),
        tuple(through[one.info.name] for one in held),
        tuple(_in_slots(one, layout, resident) for one, layout in zip(held, found, strict=True)),
    )


def _locked(layout: Layout | None) -> int:
    parts = () if layout is None else layout.parts
    return sum(part.nbytes for part in parts if part.locked and part.address)


def _in_slots(held: Held, layout: Layout | None, resident: Sequence[Sequence[int]]) -> int:
    if layout is None or layout.experts is None or layout.experts.group >= len(resident):
        return 0
    count = len(resident[layout.experts.group])
    return count * (held.weight.nbytes // held.weight.experts)
