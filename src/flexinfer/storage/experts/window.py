"""Experts that pass through: matrices read into a ring of bytes in the order of their use.

Each matrix of a batch is read once; room for one expert is enough. `MatrixReads` is what slots and
window share: one matrix of one expert, from the drive to a place in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena, round_up
from flexinfer.planning.plan import SPAN_SLACK
from flexinfer.reading import waiting
from flexinfer.reading.file_reader import Reader, Transfer
from flexinfer.storage.experts.slots import Ready
from flexinfer.storage.ring import Ring
from flexinfer.storage.stream import Counters


@dataclass(frozen=True)
class Matrix:
    """One weight with a matrix of `nbytes` for each expert, one after the other from `offset`."""

    name: str
    file: int
    offset: int
    nbytes: int

    @property
    def span(self) -> int:
        """Bytes that an aligned read of one matrix may take."""
        return round_up(self.nbytes + SPAN_SLACK, 4096)


class MatrixReads:
    """Reads matrices and waits for them.

    Args:
        reader: of the model's files.
        counters: gets bytes read and seconds waited.
        check: called while waiting; raises to stop the wait.
    """

    def __init__(self, reader: Reader, counters: Counters, check: Callable[[], None]) -> None:
        self._reader = reader
        self._counters = counters
        self._check = check

    def start(
        self, matrix: Matrix, expert: int, arena: Arena, place: int, *, urgent: bool = True
    ) -> tuple[Transfer, int]:
        """Begin to read to `place` of the arena; returns also where the matrix will begin.

        `urgent`: it was not known before, so that reads of weights that come later can wait.
        """
        offset = matrix.offset + expert * matrix.nbytes
        start, stop = self._span(matrix, expert)
        view = arena.view(place, stop - start)
        need = offset + matrix.nbytes - start
        transfer = self._reader.start(matrix.file, start, view, need, urgent=urgent)
        self._counters.read_bytes += stop - start
        return transfer, arena.address + place + offset - start

    def abandon(self, transfer: Transfer, matrix: Matrix, expert: int) -> None:
        """Do not read what nobody wants, unless it is being read already."""
        if not transfer.begun:
            transfer.abandon()
            start, stop = self._span(matrix, expert)
            self._counters.read_bytes -= stop - start

    def seconds(self, nbytes: int) -> float:
        """How long the drive takes for so many bytes, by what it gave so far."""
        arrived = self._reader.bytes_read
        return nbytes * self._reader.busy_s / arrived if arrived else 0.0

    def wait(self, transfer: Transfer, matrix: Matrix) -> None:
        """Return when the read is complete.

        Raises:
            ReadError: it failed, or the drive hangs.
        """
        self._counters.wait_s += waiting.wait_for(
            transfer, f"an expert of {matrix.name}", self._check
        )

    def wait_out(self, transfer: Transfer, matrix: Matrix) -> None:
        """Return when nothing is written any more, however the read ends.

        Raises:
            ReadError: the drive hangs.
        """
        try:
            self.wait(transfer, matrix)
        except ReadError:
            if not transfer.done:
                raise

    def _span(self, matrix: Matrix, expert: int) -> tuple[int, int]:
        return self._reader.span(matrix.file, matrix.offset + expert * matrix.nbytes, matrix.nbytes)

    def cancel(self) -> None:
        """End all reads; one that hangs may still be under way afterwards."""
        self._reader.cancel(waiting.CANCEL_SECONDS)


@dataclass
class _Passing:
    expert: int
    addresses: tuple[int, ...]
    transfers: list[Transfer]

    @property
    def done(self) -> bool:
        return all(transfer.done for transfer in self.transfers)


class ExpertWindow:
    """A ring of `nbytes` that experts pass through."""

    def __init__(self, nbytes: int, reads: MatrixReads) -> None:
        self.passed = 0
        self._reads = reads
        self._arena = Arena(nbytes)
        self._ring = Ring(nbytes)
        self._passing: deque[_Passing] = deque()
        # What the reads under way are for, when they ran ahead of their step.
        self._ahead: tuple[Sequence[Matrix], list[int]] | None = None

    def __repr__(self) -> str:
        return f"<ExpertWindow {self._ring!r}>"

    @property
    def busy(self) -> bool:
        """Some read may still write to the window."""
        return any(not passing.done for passing in self._passing)

    def begin(self, matrices: Sequence[Matrix], experts: Sequence[int]) -> deque[int]:
        """Start to read these matrices of `experts`; returns what did not fit yet."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead != (matrices, list(experts)):
            self._finish_all()
        queue = deque(list(experts)[len(self._passing) :])
        self._fill(matrices, queue)
        return queue

    def arrivals(self, matrices: Sequence[Matrix], queue: deque[int]) -> Iterator[Ready]:
        """Yield experts as they arrive; their room goes to the ones in `queue`."""
        while self._passing:
            oldest = self._passing[0]
            for transfer, matrix in zip(oldest.transfers, matrices, strict=True):
                self._reads.wait(transfer, matrix)
            ready = self._ready()
            self.passed += len(ready)
            yield [(passing.expert, passing.addresses) for passing in ready]
            for _ in ready:
                self._pop()
            self._fill(matrices, queue)

    def look_ahead(self, matrices: Sequence[Matrix], experts: Sequence[int]) -> None:
        """Start to read for a step that comes later, as much as there is room for."""
        if matrices and experts:
            self._ahead = (matrices, list(experts))
            self._fill(matrices, deque(experts))

    def stop(self) -> None:
        """Forget everything; reads must have been cancelled. A hanging one keeps its memory."""
        if self.busy:
            self._arena.close()
            self._arena = Arena(self._ring.size)
        while self._passing:
            self._pop()
        self._ahead = None

    def close(self) -> None:
        self._arena.close()

    def _ready(self) -> list[_Passing]:
        """The oldest that are complete: the ring gives room back in order."""
        ready = []
        for passing in self._passing:
            if not passing.done or any(t.error for t in passing.transfers):
                break
            ready.append(passing)
        return ready

    def _fill(self, matrices: Sequence[Matrix], queue: deque[int]) -> None:
        size = sum(matrix.span for matrix in matrices)
        while queue:
            place = self._ring.push(size)
            if place is None:
                if not self._passing:
                    raise ReadError(
                        f"{matrices[0].name}: the window of {self._ring.size} bytes is too small "
                        f"for one expert of {size}; give a larger budget"
                    )
                return
            self._start(matrices, queue.popleft(), place)

    def _start(self, matrices: Sequence[Matrix], expert: int, place: int) -> None:
        transfers, addresses = [], []
        for matrix in matrices:
            transfer, address = self._reads.start(matrix, expert, self._arena, place)
            transfers.append(transfer)
            addresses.append(address)
            place += matrix.span
        self._passing.append(_Passing(expert, tuple(addresses), transfers))

    def _finish_all(self) -> None:
        """Wait until nothing writes to the window; nobody wants what was read."""
        for passing in self._passing:
            for transfer in passing.transfers:
                while not transfer.done:
                    transfer.wait(waiting.HANG_SECONDS)
        while self._passing:
            self._pop()

    def _pop(self) -> None:
        self._passing.popleft()
        self._ring.pop()
