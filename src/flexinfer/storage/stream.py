"""Streamed weights: reads run ahead of the computation through a ring, in the order of the graph.

A `Stream` belongs to the thread that holds the model's pass lock; only the reader's threads work
beside it. Loads are known by their index in the sequence of the running graph. Then the reads go
on with what most likely follows, by default the same; `begin` keeps what fits and drops the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain, islice

from flexinfer.errors import ReadError
from flexinfer.reading.reader import Reader, Transfer
from flexinfer.reading.waiting import Counters, Waiting
from flexinfer.seam import Part
from flexinfer.storage.entry import Entry
from flexinfer.storage.locked import LockedSet
from flexinfer.storage.window import Window

# Reads into locked memory do not wait for room; this many bytes of them may be under way.
_LOCKED_AHEAD = 64 << 20


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
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
        self._reader = reader
        self._locked = locked
        self._window = Window(window)
        self._lookahead = lookahead
        self._waiting = waiting
        self._sequence: Sequence[Part] = ()
        self._following: Sequence[Part] = ()
        self._entries: deque[Entry] = deque()
        self._first = 0
        self._locked_ahead = 0

    def __repr__(self) -> str:
        return f"<Stream {self._window!r} {len(self._entries)} loads from {self._first}>"

    @property
    def passing(self) -> list[tuple[str, int]]:
        """Weights and bytes in the window at this moment; any thread may ask."""
        return [(e.part.name, e.part.nbytes) for e in list(self._entries) if e.place == "ring"]

    @property
    def resident(self) -> int:
        """Bytes of memory behind the window, in whole pages."""
        return self._window.resident

    def begin(self, sequence: Sequence[Part], following: Sequence[Part] | None = None) -> None:
        """Start a pass over `sequence`; reads that ran ahead and fit it are kept.

        `following` is read after it, in turns without end.
        """
        self._window.forget_left()
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
        while True:
            while position >= len(self._entries):
                if not self._start_next():
                    raise ReadError(
                        f"{self._sequence[index].name}: the window of {self._window.nbytes} bytes "
                        "is too small for what one step needs; give a larger budget or window"
                    )
            entry = self._entries[position]
            if entry.transfer is None or self._arrives(entry, entry.transfer):
                return entry.address
            self._drop_after(position)  # read again, from another drive

    def release(self, index: int) -> None:
        """All loads before `index` are used up; their room goes to the next reads."""
        while self._first < index and self._entries:
            if self._entries.popleft().place == "ring":
                self._window.pop()
            self._first += 1
        self._first = max(self._first, index)
        self._pump()

    def stop(self) -> None:
        """Forget every read under way; no thread writes to the ring any more afterwards."""
        self._drop_after(0)
        self._window.forget_left()

    def close(self) -> None:
        self.stop()
        self._window.close()

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
            self._entries.append(Entry(part, part.address, None, "none"))
            return True
        if part.locked:
            return self._start_locked(part)
        return self._start_streamed(part)

    def _start_locked(self, part: Part) -> bool:
        first = next((entry for entry in self._entries if entry.part is part), None)
        if first is not None:
            # Its second use: the first one's read fills the same place.
            self._entries.append(Entry(part, first.address, first.transfer, "none"))
            return True
        if self._locked_ahead > _LOCKED_AHEAD and self._entries:
            return False
        start, stop = self._reader.span(part.file, part.offset, part.nbytes)
        address, view = self._locked.place(part, start, stop)
        transfer = self._start(part, start, view, address)
        self._locked_ahead += part.nbytes
        self._entries.append(Entry(part, address, transfer, "locked"))
        return True

    def _start_streamed(self, part: Part) -> bool:
        start, stop = self._reader.span(part.file, part.offset, part.nbytes)
        place = self._window.push(stop - start)
        if place is None:
            return False
        address = place[0] + part.offset - start
        transfer = self._start(part, start, place[1], address)
        self.counters.read_bytes += stop - start
        self._entries.append(Entry(part, address, transfer, "ring"))
        return True

    def _start(self, part: Part, start: int, view: memoryview, address: int) -> Transfer:
        need = part.offset + part.nbytes - start
        treat = None if self._waiting.treats else part.treatment(address)
        return self._reader.start(part.file, start, view, need, treat=treat)

    def _arrives(self, entry: Entry, transfer: Transfer) -> bool:
        """Wait for an entry; False when it is to be read again, as its drive hangs.

        Raises:
            ReadError: it could not be read, or no other drive is left.
        """
        part = entry.part
        what = f"{part.name} (file {part.file}, offset {part.offset}, {part.nbytes} bytes)"
        untreated = self._waiting.treats and entry.place != "none"
        treat = self.counters.timed(part.treatment(entry.address)) if untreated else None
        try:
            self.counters.wait_s += self._waiting.wait_for(transfer, what, treat)
        except ReadError:
            if transfer.done or not self._reader.leave_hanging(transfer):
                raise
            return False
        if part.locked and not part.address:
            self._locked.arrived(part)
            self._locked_ahead -= part.nbytes
            self.counters.read_bytes += part.nbytes
        entry.transfer = None
        return True

    def _drop_after(self, keep: int) -> None:
        """Drop all entries but the first `keep`, newest first.

        Reads under way are cancelled, and that ends those of the first ones as well: what has not
        arrived of these goes, too.
        """
        if any(entry.under_way for entry in islice(self._entries, keep, None)):
            self._reader.cancel(self._waiting.cancel_s)
            first = islice(enumerate(self._entries), keep)
            keep = next((n for n, entry in first if not entry.is_there), keep)
        dropped = [self._entries.pop() for _ in range(len(self._entries) - keep)]
        for entry in dropped:
            if entry.place == "ring":
                self._window.unpush()
            elif entry.place == "locked" and not entry.part.address:
                self._locked_ahead -= entry.part.nbytes
                if entry.transfer is not None and entry.under_way:
                    self._locked.leave_behind(entry.part, entry.transfer)
                else:
                    self._locked.forget(entry.part)
        if any(entry.under_way and entry.place == "ring" for entry in dropped):
            self._leave_behind()

    def _leave_behind(self) -> None:
        """Take another window: a read that hangs may still write to the one there is."""
        for entry in self._entries:
            entry.place = "none" if entry.place == "ring" else entry.place
        self._window.leave_behind()
