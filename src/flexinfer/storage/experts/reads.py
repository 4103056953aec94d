"""One matrix of one expert, from the drive to a place in memory.

Slots and window share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena
from flexinfer.planning.weights import span_bytes
from flexinfer.reading.reader import Reader, Transfer
from flexinfer.reading.waiting import Counters, Waiting
from flexinfer.seam import Packing


@dataclass(frozen=True)
class Matrix:
    """One weight with a matrix of `nbytes` for each expert, one after the other from `offset`.

    With `packing` they are packed in memory.
    """

    name: str
    file: int
    offset: int
    nbytes: int
    packing: Packing | None = None

    @property
    def span(self) -> int:
        """Bytes that an aligned read of one matrix may take."""
        return span_bytes(self.nbytes)


class MatrixReads:
    """Reads matrices and waits for them.

    Args:
        reader: of the model's files.
        counters: gets bytes read and seconds waited.
        waiting: for the drive.
    """

    def __init__(self, reader: Reader, counters: Counters, waiting: Waiting) -> None:
        self._reader = reader
        self._counters = counters
        self._waiting = waiting

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
        address = arena.address + place + offset - start
        treat = partial(matrix.packing.pack, address, matrix.nbytes) if matrix.packing else None
        transfer = self._reader.start(matrix.file, start, view, need, urgent=urgent, treat=treat)
        self._counters.read_bytes += stop - start
        return transfer, address

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
        try:
            self._counters.wait_s += self._waiting.wait_for(transfer, f"an expert of {matrix.name}")
        except ReadError:
            if not transfer.done:
                self._reader.leave_hanging(transfer)  # the next request is read from another drive
            raise

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
        self._reader.cancel(self._waiting.cancel_s)
