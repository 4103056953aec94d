"""Locked weights: places in memory that stay until the plan changes.

A part gets its place when its first read begins and an address when that read is complete. Pure
bookkeeping over an arena; nothing here reads.
"""

from __future__ import annotations

from flexinfer.layout import Part
from flexinfer.pages import Arena, Slot


class LockedSet:
    """Places of locked parts in one arena of `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._arena = Arena(capacity) if capacity else None
        self._slots: dict[Part, Slot] = {}

    def __repr__(self) -> str:
        return f"<LockedSet {len(self._slots)} parts, {self.nbytes} bytes>"

    @property
    def nbytes(self) -> int:
        """Bytes of the parts that have a place."""
        return sum(slot.nbytes for slot in self._slots.values())

    def place(self, part: Part, span: int) -> tuple[int, memoryview]:
        """A place of `span` bytes for `part`: its address and its memory.

        Raises:
            MemoryError: the arena has no such hole; the plan counted wrongly.
        """
        if self._arena is None:
            raise MemoryError(f"no room was planned to lock {part.name}")
        slot = self._slots.get(part)
        if slot is None:
            slot = self._slots[part] = self._arena.allocate(span)
        return self._arena.address + slot.offset, self._arena.view(slot.offset, span)

    def forget(self, part: Part) -> int:
        """Give the place of `part` back; returns the bytes the system got."""
        slot = self._slots.pop(part, None)
        part.address = 0
        if slot is None or self._arena is None:
            return 0
        self._arena.free(slot)
        return self._arena.trim(slot)

    def close(self) -> None:
        for part in self._slots:
            part.address = 0
        self._slots.clear()
        if self._arena is not None:
            self._arena.close()
