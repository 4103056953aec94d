"""Streamed weights: reads run ahead of the computation through a ring, in the order of the graph.

A `Stream` belongs to the thread that holds the model's pass lock; only the reader's threads work
beside it. Loads are known by their index in the sequence of the running graph. Then the reads go
on with what most likely follows, by default the same; `begin` keeps what fits and drops the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.reader import Reader, Transfer
from flexinfer.reading.waiting import Counters, Waiting
from flexinfer.seam import Part
from flexinfer.storage.locked import LockedSet
from flexinfer.storage.ring import Ring

# Reads into locked memory do not wait for room; this many bytes of them may be under way.
_LOCKED_AHEAD = 64 << 20


@dataclass
class _Entry:
    """One load under way or in memory; `transfer` is None when it was there already.

    `place` says what giving it up gives back: a place in the ring, a locked place, or nothing.
    """

    part: Part
    address: int
    transfer: Transfer | None
    place: Literal["ring", "locked", "none"]


class Stream:
    """Keeps the loads of a sequence coming while earlier ones are computed.

    Args:
        reader: reads the model's files.
        locked: places of the parts that stay.
        window: bytes of the ring (0: nothing is streamed).
        lookahead: False reads a part only when it is acquired.
        waiting: for the drive.

    Attributes:
        counters: what it did since it was made.
    """

    def __init__(
        self,
        reader: Reader,
        locked: LockedSet,
        window: int,
        *,
        lookahead: bool,
        waiting: Waiting,
    ) -> None:
        self.counters = Counters()
        self._reader = reader
        self._locked = locked
        self._arena = Arena(window) if window else None
        self._ring = Ring(window)
        self._lookahead = lookahead
        self._waiting = waiting
        self._sequence: Sequence[Part] = ()
        self._following: Sequence[Part] = ()
        self._entries: deque[_Entry] = deque()
        self._first = 0
        self._locked_ahead = 0

    def __repr__(self) -> str:
        return f"<Stream {self._ring!r} {len(self._entries)} loads from {self._first}>"

    @property
    def passing(self) -> list[tuple[str, int]]:
        """Weights and bytes in the window at this moment; any thread may ask."""
        return [(e.part.name, e.part.nbytes) for e in list(self._entries) if e.place == "ring"]

    @property
    def resident(self) -> int:
        """Bytes of memory behind the window, in whole pages."""
        return 0 if self._arena is None else self._arena.resident

    def begin(self, sequence: Sequence[Part], following: Sequence[Part] | None = None) -> None:
        """Start a pass over `sequence`; reads that ran ahead and fit it are kept.

        `following` is read after it, in turns without end.
        """
        following = sequence if following is None else following
        keep = 0
        for entry, part in zip(self._entries, chain(sequence, following), strict=False):
            if entry.part is not part:
                break
            keep += 1
        self._drop_after(keep)
        self._sequence = sequence
        self._following = following
        self._first = 0
        self._pump()

    def ready(self, index: int) -> bool:
        """Whether the load can be acquired without waiting."""
        position = index - self._first
        if position >= len(self._entries):
            return False
        transfer = self._entries[position].transfer
        return transfer is None or transfer.done

    def acquire(self, index: int) -> int:
        """Address of the load's first byte, once it is in memory.

        Raises:
            ReadError: it could not be read, or the drive hangs.
        """
        position = index - self._first
        while position >= len(self._entries):
            if not self._start_next():
                raise ReadError(
                    f"{self._sequence[index].name}: the window of {self._ring.size} bytes is too "
                    "small for what one step needs; give a larger budget or window"
                )
        entry = self._entries[position]
        if entry.transfer is not None:
            self._wait(entry)
        return entry.address

    def release(self, index: int) -> None:
        """All loads before `index` are used up; their room goes to the next reads."""
        while self._first < index and self._entries:
            if self._entries.popleft().place == "ring":
                self._ring.pop()
            self._first += 1
        self._first = max(self._first, index)
        self._pump()

    def stop(self) -> None:
        """Forget every read under way; no thread writes to the ring any more afterwards."""
        self._drop_after(0)

    def close(self) -> None:
        self.stop()
        if self._arena is not None:
            self._arena.close()

    # -- reading ahead ------------------------------------------------------------------------

    def _pump(self) -> None:
        if not self._lookahead:
            return
        limit = len(self._sequence) + len(self._following)
        while self._first + len(self._entries) < limit and self._start_next():
            pass

    def _start_next(self) -> bool:
        """Begin the next read of the sequence; False when there is no room for it yet."""
        position = self._first + len(self._entries)
        beyond = position - len(self._sequence)
        part = self._sequence[position] if beyond < 0 else self._following[beyond]
        if part.address:
            self._entries.append(_Entry(part, part.address, None, "none"))
            return True
        if part.locked:
            return self._start_locked(part)
        return self._start_streamed(part)

    def _start_locked(self, part: Part) -> bool:
        first = next((entry for entry in self._entries if entry.part is part), None)
        if first is not None:
            # Its second use: the first one's read fills the same place.
            self._entries.append(_Entry(part, first.address, first.transfer, "none"))
            return True
        if self._locked_ahead > _LOCKED_AHEAD and self._entries:
            return False
        start, stop = self._reader.span(part.file, part.offset, part.nbytes)
        address, view = self._locked.place(part, start, stop)
        transfer = self._start(part, start, view, address)
        self._locked_ahead += part.nbytes
        self._entries.append(_Entry(part, address, transfer, "locked"))
        return True

    def _start_streamed(self, part: Part) -> bool:
        start, stop = self._reader.span(part.file, part.offset, part.nbytes)
        offset = self._ring.push(stop - start)
        if offset is None or self._arena is None:
            return False
        address = self._arena.address + offset + part.offset - start
        transfer = self._start(part, start, self._arena.view(offset, stop - start), address)
        self.counters.read_bytes += stop - start
        self._entries.append(_Entry(part, address, transfer, "ring"))
        return True

    def _start(self, part: Part, start: int, view: memoryview, address: int) -> Transfer:
        need = part.offset + part.nbytes - start
        return self._reader.start(part.file, start, view, need, treat=part.treatment(address))

    # -- waiting and dropping -------------------------------------------------------------------

    def _wait(self, entry: _Entry) -> None:
        transfer, part = entry.transfer, entry.part
        assert transfer is not None
        what = f"{part.name} (file {part.file}, offset {part.offset}, {part.nbytes} bytes)"
        self.counters.wait_s += self._waiting.wait_for(transfer, what)
        if part.locked and not part.address:
            self._locked.arrived(part)
            self._locked_ahead -= part.nbytes
            self.counters.read_bytes += part.nbytes
        entry.transfer = None

    def _drop_after(self, keep: int) -> None:
        """Drop all entries but the first `keep`, newest first."""
        dropped = [self._entries.pop() for _ in range(len(self._entries) - keep)]
        if any(_under_way(entry) for entry in dropped):
            self._reader.cancel(self._waiting.cancel_s)
        for entry in dropped:
            if entry.place == "ring":
                self._ring.unpush()
            elif entry.place == "locked" and not entry.part.address:
                self._locked_ahead -= entry.part.nbytes
                if entry.transfer is not None and _under_way(entry):
                    self._locked.leave_behind(entry.part, entry.transfer)
                else:
                    self._locked.forget(entry.part)
        if any(_under_way(entry) and entry.place == "ring" for entry in dropped):
            self._leave_behind()
        elif dropped and keep:
            self._restart_cancelled()

    def _leave_behind(self) -> None:
        """Take another ring: a read that hangs may still write to the one there is."""
        self._drop_after(0)
        if self._arena is not None:
            self._arena.close()
            self._arena = Arena(self._ring.size)

    def _restart_cancelled(self) -> None:
        """`cancel` ends every read under way, also those that are kept: drop them as well."""
        for position, entry in enumerate(self._entries):
            if entry.transfer is not None and entry.transfer.error is not None:
                self._drop_after(position)
                return


def _under_way(entry: _Entry) -> bool:
    return entry.transfer is not None and not entry.transfer.done
