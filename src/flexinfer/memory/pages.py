"""Anonymous memory in 2 MiB pages, handed out in slots and used again and again.

A fresh page costs 0.3 s of kernel time per GB, a recycled one 0.013 s, so memory is mapped once
and goes back to the system only when someone asks for bytes (`trim`) or on `close`.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

from flexinfer.memory.memlock import lock_pages, unlock_pages
from flexinfer.memory.refusals import refused
from flexinfer.sizes import ALIGNMENT

PAGE = 2 << 20
# Address space for a model larger than the machine is refused unless nothing is reserved for it;
# Python names the flag from 3.13 on.
_RESERVE_NOTHING = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000


def address_of(buffer: mmap.mmap | memoryview | bytearray | bytes) -> int:
    """Address of the first byte of `buffer`."""
    import numpy as np  # late: a catalogue or a plan needs no numpy

    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address


def map_unreserved(nbytes: int, what: str) -> mmap.mmap:
    """Anonymous memory that takes none until it is touched; `what` it is for, in words.

    Raises:
        BudgetError: the system refuses it.
    """
    try:
        return mmap.mmap(-1, nbytes, flags=_RESERVE_NOTHING)
    except OSError as error:
        raise refused(what, nbytes) from error


def round_up(nbytes: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `nbytes`."""
    return -(-nbytes // step) * step


@dataclass(frozen=True, order=True)
class Slot:
    """A range of an arena, in bytes from its start."""

    offset: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


class Arena:
    """One private mapping of at least `nbytes`, a multiple of 2 MiB that starts at one.

    Not for use by several threads at once; its views may be filled by any thread.

    Args:
        nbytes: of all slots together.
        pinned: keep what is resident out of swap, as far as the system lets us.

    Raises:
        BudgetError: the system refuses the memory.
    """

    def __init__(self, nbytes: int, *, pinned: bool = False) -> None:
        if nbytes <= 0:
            raise ValueError(f"an arena needs at least one byte, not {nbytes}")
        self.nbytes = round_up(nbytes, PAGE)
        self._map = map_unreserved(self.nbytes + PAGE, "memory for weights")
        self._lead = -address_of(self._map) % PAGE
        self.address = address_of(self._map) + self._lead
        whole = nbytes // PAGE * PAGE
        self._advise(mmap.MADV_HUGEPAGE, 0, whole)
        # Of the last one only what is used: others count this arena at the bytes they asked for.
        self._advise(mmap.MADV_NOHUGEPAGE, whole, self.nbytes - whole)
        self._memory = memoryview(self._map)[self._lead : self._lead + self.nbytes]
        self._holes = [Slot(0, self.nbytes)]
        self._touched = bytearray(self.nbytes // PAGE)
        self._closed = False
        self.pinned = pinned

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.used} of {self.nbytes} bytes used"
        return f"<Arena {state}, {self.resident} resident>"

    @property
    def used(self) -> int:
        """Bytes in allocated slots."""
        return self.nbytes - self.free_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes in holes, which need not lie together."""
        return sum(hole.nbytes for hole in self._holes)

    @property
    def resident(self) -> int:
        """Bytes of the pages that views have covered since they were last trimmed."""
        return self._touched.count(1) * PAGE

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Writable memory of a range; its pages count as resident from now on.

        Raises:
            ValueError: the range leaves the arena, or the arena is closed.
        """
        end = offset + nbytes
        if self._closed or not 0 <= offset <= end <= self.nbytes:
            raise ValueError(f"{self!r} has no range of {nbytes} bytes at {offset}")
        first, last = offset // PAGE, round_up(end, PAGE) // PAGE
        if self.pinned and 0 in self._touched[first:last]:
            self._pin(first * PAGE, (last - first) * PAGE)
        self._touched[first:last] = b"\1" * (last - first)
        return self._memory[offset:end]

    def allocate(self, nbytes: int) -> Slot:
        """The first hole of `nbytes`, rounded up to 4096.

        Raises:
            MemoryError: no hole is large enough.
        """
        size = round_up(max(nbytes, 1), ALIGNMENT)
        for index, hole in enumerate(self._holes):
            if hole.nbytes >= size:
                rest = Slot(hole.offset + size, hole.nbytes - size)
                self._holes[index : index + 1] = [rest] if rest.nbytes else []
                return Slot(hole.offset, size)
        largest = max((hole.nbytes for hole in self._holes), default=0)
        raise MemoryError(
            f"no hole of {size} bytes: {self.free_bytes} of {self.nbytes} bytes are free, "
            f"the largest hole has {largest}"
        )

    def free(self, slot: Slot) -> None:
        """Give an allocated slot back; its memory stays resident until it is trimmed.

        Raises:
            ValueError: the range leaves the arena or is not wholly allocated.
        """
        at = bisect_left(self._holes, slot)
        before = self._holes[at - 1 : at]
        after = self._holes[at : at + 1]
        overlaps = any(h.end > slot.offset for h in before) or any(
            h.offset < slot.end for h in after
        )
        if overlaps or slot.offset < 0 or slot.nbytes <= 0 or slot.end > self.nbytes:
            raise ValueError(f"{slot} is not allocated in {self!r}")
        for hole in before:
            if hole.end == slot.offset:
                self._holes.remove(hole)
                slot = Slot(hole.offset, hole.nbytes + slot.nbytes)
        for hole in after:
            if hole.offset == slot.end:
                self._holes.remove(hole)
                slot = Slot(slot.offset, slot.nbytes + hole.nbytes)
        insort(self._holes, slot)

    def trim(self, slot: Slot | None = None) -> int:
        """Give the 2 MiB pages that touch `slot` (all: None) and hold no slot to the system.

        What lies in holes is lost. Returns the resident bytes that went back.
        """
        wanted = slot or Slot(0, self.nbytes)
        given = 0
        for hole in self._holes:
            start = max(round_up(hole.offset, PAGE), wanted.offset // PAGE * PAGE)
            stop = min(hole.end // PAGE * PAGE, round_up(wanted.end, PAGE))
            if start < stop:
                given += self._drop(start, stop)
        return given

    def settle(self, slot: Slot, *, filled: bool) -> Slot:
        """Move an allocated slot to the first place that holds it, with its bytes where `filled`.

        Pages that only it held go to the system. Other threads run meanwhile.
        """
        self.free(slot)
        place = self.allocate(slot.nbytes)
        if filled and place != slot:
            self.view(place.offset, place.nbytes)
            ctypes.memmove(self.address + place.offset, self.address + slot.offset, slot.nbytes)
        self.trim(slot)
        return place

    def empty(self, slot: Slot) -> None:
        """Give the 2 MiB pages that lie wholly in an allocated slot to the system.

        Somebody may still write there, so they count as resident until it is freed and trimmed.
        """
        start, stop = round_up(slot.offset, PAGE), slot.end // PAGE * PAGE
        if start < stop:
            self._advise(mmap.MADV_DONTNEED, start, stop - start)

    def empty_but(self, slots: Iterable[Slot]) -> None:
        """As `empty`, all but these ranges."""
        start = 0
        for slot in sorted(slots):
            self.empty(Slot(start, slot.offset - start))
            start = slot.end
        self.empty(Slot(start, self.nbytes - start))

    def close(self) -> None:
        """Give all memory back at once, also while views are alive.

        A view that outlives its arena reads zeros and keeps only address space; that goes when
        the last of them does.
        """
        if self._closed:
            return
        self._drop(0, self.nbytes)
        self._holes.clear()
        self._closed = True
        self._memory.release()
        try:
            self._map.close()
        except BufferError:
            del self._map  # the views hold it; the last one unmaps it

    def _drop(self, start: int, stop: int) -> int:
        pages = slice(start // PAGE, stop // PAGE)
        nbytes = self._touched[pages].count(1) * PAGE
        if nbytes:
            if self.pinned:
                unlock_pages(self.address + start, stop - start)
            self._advise(mmap.MADV_DONTNEED, start, stop - start)
            self._touched[pages] = bytes(pages.stop - pages.start)
        return nbytes

    def _pin(self, start: int, nbytes: int) -> None:
        self.pinned = lock_pages(self.address + start, nbytes)
        if not self.pinned:
            # All or nothing: what is locked cannot be given back.
            unlock_pages(self.address, self.nbytes)

    def _advise(self, advice: int, start: int, nbytes: int) -> None:
        if nbytes:
            self._map.madvise(advice, self._lead + start, nbytes)
