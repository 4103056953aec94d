"""Locked weights: places in memory that stay until the plan changes.

A part gets its place with the plan and an address when its first read is complete. Pure bookkeeping
over an arena; nothing here reads. A place that a read may still write to belongs to nobody: what
comes late is the bytes of the file, and another part, or the same one packed, would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.errors import ReadError
from flexinfer.memory.pages import PAGE, Arena, Slot, round_up
from flexinfer.reading.reader import Transfer
from flexinfer.seam import Part

# Plans count what parts take, and keep some pages beside it free; so much of those may be holes.
_SCATTERED = PAGE


class LockedSet:
    """Places of locked parts in one arena of `capacity` bytes; `pinned` keeps them out of swap."""

    def __init__(self, capacity: int, *, pinned: bool = False) -> None:
        self._arena = Arena(capacity, pinned=pinned) if capacity else None
        self._slots: dict[Part, Slot] = {}
        # Where in its place a part begins: reads are aligned, parts are not.
        self._leads: dict[Part, int] = {}
        # Places left behind, each until the read that hangs has ended.
        self._behind: list[tuple[Transfer, Slot]] = []

    def __repr__(self) -> str:
        behind = f", {len(self._behind)} places left behind" if self._behind else ""
        return f"<LockedSet {len(self._slots)} parts, {self.nbytes} bytes{behind}>"

    @property
    def nbytes(self) -> int:
        """Bytes of the parts that are in memory."""
        return sum(slot.nbytes for part, slot in self._slots.items() if part.address)

    @property
    def resident(self) -> int:
        """Bytes of memory that hold them, in whole pages."""
        return 0 if self._arena is None else self._arena.resident

    @property
    def pinned(self) -> bool:
        """Whether the system keeps all of it out of swap."""
        return self._arena is not None and self._arena.pinned

    def arrange(self, spans: Sequence[tuple[Part, int]]) -> None:
        """Reserve places for these parts between passes; only use makes them resident.

        Plans that come and go leave holes, whose pages are resident wherever a part touches them.
        Where that is too much the parts move together: an address is good until the next call.
        Where no hole is large enough, all parts get new places and are read again.
        """
        if self._arena is None:
            return
        self._take_back(self._arena)
        try:
            self._reserve(self._arena, spans)
        except MemoryError:
            for part in list(self._slots):
                self.forget(part)
            try:
                self._reserve(self._arena, spans)
            except MemoryError:
                if not self._behind:
                    raise
                # The others get theirs when they are read, if there is room by then.
        if self._scattered() > _SCATTERED:
            self._gather(self._arena)

    def _reserve(self, arena: Arena, spans: Sequence[tuple[Part, int]]) -> None:
        for part, span in spans:
            if part not in self._slots:
                self._slots[part] = arena.allocate(span)

    def _scattered(self) -> int:
        """Bytes of pages that parts touch and do not fill."""
        slots, reached, pages = sorted(self._slots.values()), 0, 0
        for slot in slots:
            first, reached_now = slot.offset // PAGE, round_up(slot.end, PAGE) // PAGE
            pages += max(reached_now - max(first, reached), 0)
            reached = max(reached, reached_now)
        return pages * PAGE - sum(slot.nbytes for slot in slots)

    def _gather(self, arena: Arena) -> None:
        """Move all parts towards the start, in their order, so that none is written over."""
        for part, slot in sorted(self._slots.items(), key=lambda one: one[1]):
            place = self._slots[part] = arena.settle(slot, filled=bool(part.address))
            if part.address:
                part.address = arena.address + place.offset + self._leads[part]

    def place(self, part: Part, start: int, stop: int) -> tuple[int, memoryview]:
        """A place for the bytes `start` to `stop` of the file, which hold `part`.

        Returns where its first byte will be, and the memory to read to.

        Raises:
            ReadError: what room there was is taken by earlier reads that hang.
            MemoryError: the arena has no such hole; the plan counted wrongly.
        """
        if self._arena is None:
            raise MemoryError(f"no room was planned to lock {part.name}")
        slot = self._slots.get(part)
        if slot is None:
            slot = self._slots[part] = self._allocate(self._arena, part, stop - start)
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

    def leave_behind(self, part: Part, transfer: Transfer) -> None:
        """As `forget`, while `transfer` may still write there: nobody gets the place before."""
        assert self._arena is not None
        slot = self._slots.pop(part)
        self._leads.pop(part, None)
        part.address = 0
        self._behind.append((transfer, slot))
        # The part will be read to another place: both at once are more than was planned.
        self._arena.empty(slot)

    def _take_back(self, arena: Arena) -> None:
        """Places whose reads have ended at last are holes again."""
        over = [slot for transfer, slot in self._behind if transfer.done]
        self._behind = [one for one in self._behind if one[1] not in over]
        for slot in over:
            arena.free(slot)
            arena.trim(slot)

    def _allocate(self, arena: Arena, part: Part, nbytes: int) -> Slot:
        self._take_back(arena)
        try:
            return arena.allocate(nbytes)
        except MemoryError:
            if not self._behind:
                raise
            raise ReadError(
                f"{part.name}: its memory still waits for a drive that does not answer; "
                "check the drive and try again"
            ) from None

    def close(self) -> None:
        for part in self._slots:
            part.address = 0
        self._slots.clear()
        self._leads.clear()
        self._behind.clear()
        if self._arena is not None:
            self._arena.close()
