"""Locked weights: places in memory that stay until the plan changes.

A part gets its place with the plan and an address when its first read is complete. Pure bookkeeping
over an arena; nothing here reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.memory.pages import Arena, Slot
from flexinfer.seam import Part


class LockedSet:
    """Places of locked parts in one arena of `capacity` bytes; `pinned` keeps them out of swap."""

    def __init__(self, capacity: int, *, pinned: bool = False) -> None:
        self._arena = Arena(capacity, pinned=pinned) if capacity else None
        self._slots: dict[Part, Slot] = {}
        # Where in its place a part begins: reads are aligned, parts are not.
        self._leads: dict[Part, int] = {}

    def __repr__(self) -> str:
        return f"<LockedSet {len(self._slots)} parts, {self.nbytes} bytes>"

    @property
    def nbytes(self) -> int:
        """Bytes of the parts that are in memory."""
        return sum(slot.nbytes for part, slot in self._slots.items() if part.address)

    @property
    def pinned(self) -> bool:
        """Whether the system keeps all of it out of swap."""
        return self._arena is not None and self._arena.pinned

    def arrange(self, spans: Sequence[tuple[Part, int]]) -> None:
        """Reserve places for these parts between passes; only use makes them resident.

        Plans that come and go leave holes. Where those are too small all parts get new places
        and are read again.
        """
        if self._arena is None:
            return
        try:
            self._reserve(self._arena, spans)
        except MemoryError:
            for part in list(self._slots):
                self.forget(part)
            self._reserve(self._arena, spans)

    def _reserve(self, arena: Arena, spans: Sequence[tuple[Part, int]]) -> None:
        for part, span in spans:
            if part not in self._slots:
                self._slots[part] = arena.allocate(span)

    def place(self, part: Part, start: int, stop: int) -> tuple[int, memoryview]:
        """A place for the bytes `start` to `stop` of the file, which hold `part`.

        Returns where its first byte will be, and the memory to read to.

        Raises:
            MemoryError: the arena has no such hole; the plan counted wrongly.
        """
        if self._arena is None:
            raise MemoryError(f"no room was planned to lock {part.name}")
        slot = self._slots.get(part)
        if slot is None:
            slot = self._slots[part] = self._arena.allocate(stop - start)
        lead = self._leads[part] = part.offset - start
        address = self._arena.address + slot.offset + lead
        return address, self._arena.view(slot.offset, stop - start)

    def arrived(self, part: Part) -> None:
        """What `place` gave memory for is there: from now on it has an address."""
        assert self._arena is not None
        part.address = self._arena.address + self._slots[part].offset + self._leads[part]

    def forget(self, part: Part) -> int:
        """Give the place of `part` back; returns the bytes the system got."""
        slot = self._slots.pop(part, None)
        self._leads.pop(part, None)
        part.address = 0
        if slot is None or self._arena is None:
            return 0
        self._arena.free(slot)
        return self._arena.trim(slot)

    def close(self) -> None:
        for part in self._slots:
            part.address = 0
        self._slots.clear()
        self._leads.clear()
        if self._arena is not None:
            self._arena.close()
