"""Model files read in large aligned pieces by a few threads, from one drive or from several.

The pieces of one transfer are spread over all threads and transfers are served in the order in
which they were started, so the one needed next is complete first; only what could not be known
before overtakes. The threads hold the interpreter lock for microseconds a piece.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing

from flexinfer.errors import ReadError
from flexinfer.reading.drive import Drive, open_drive
from flexinfer.reading.drives import Drives
from flexinfer.reading.pieces import Piece, QueuedTransfer
from flexinfer.reading.reader import (
    CLOSE_SECONDS,
    DriveUse,
    Transfer,
    Treatment,
    check_range,
    enclosing,
)
from flexinfer.reading.threads import ReadThreads
from flexinfer.sizes import ALIGNMENT


class FileReader:
    """Reads files by direct I/O, each drive with its own threads; all take from one line.

    A drive that fails while another is left is left aside: what it was asked for is read from the
    others. The last one's errors are those of the transfers.

    Args:
        drives: each with a copy of the same files; the reader closes them. Pieces are as small as
            the smallest that one of them likes.
        lost: is told in one line of a drive that is left aside.
    """

    alignment = ALIGNMENT

    def __init__(
        self, drives: Sequence[Drive], *, lost: Callable[[str], None] = lambda line: None
    ) -> None:
        self.piece = min(drive.piece for drive in drives)
        self._drives = Drives(drives, lost)
        self._pool = ReadThreads(self._drives)
        # A forgotten reader may be collected in any thread, even in ours: it must not wait.
        self._alive = weakref.finalize(self, self._pool.end)

    def __repr__(self) -> str:
        state = f"{len(self._pool.open)} under way" if self._alive.alive else "closed"
        drives = self._drives.all
        several = f" on {len(drives)} drives" if len(drives) > 1 else ""
        files = f"{len(drives[0].files)} files{several}"
        return f"<FileReader {files}, {self.threads} x {self.piece} bytes, {state}>"

    @property
    def threads(self) -> int:
        return len(self._pool.threads)

    @property
    def bytes_read(self) -> int:
        return self._drives.bytes_read

    @property
    def busy_s(self) -> float:
        return self._pool.busy_s

    @property
    def drives(self) -> tuple[DriveUse, ...]:
        return tuple(drive.use for drive in self._drives.all)

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        return enclosing(offset, length)

    def start(
        self,
        file: int,
        start: int,
        view: memoryview,
        need: int,
        *,
        urgent: bool = False,
        treat: Treatment | None = None,
    ) -> Transfer:
        check_range(self, start, view, need)
        self._require_open()
        step = self.piece
        cuts = range(0, need, step)
        transfer = QueuedTransfer(len(cuts), treat, view)
        pieces = [
            Piece(transfer, file, start + at, view[at : at + step], min(step, need - at))
            for at in cuts
        ]
        self._pool.submit(transfer, pieces, urgent=urgent)
        return transfer

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        self._require_open()
        self._drives.read_now(lambda drive: drive.read_into(file, offset, view))

    def check(self) -> None:
        for drive in self._drives.used:
            try:
                drive.check()
            except ReadError as error:
                if not self._drives.leave_aside(drive, error):
                    raise

    def leave_hanging(self, transfer: Transfer | None = None) -> bool:
        return self._drives.leave_hanging(transfer)

    def cancel(self, timeout: float | None = None) -> bool:
        self._pool.drop_queued()
        return self._pool.wait(timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        if self._alive.detach():
            self._pool.drop_queued()
            self._pool.end()
            self._pool.join(timeout)

    def _require_open(self) -> None:
        if not self._alive.alive:
            raise ReadError("the reader is closed")


def read_from(
    drives: Iterable[Drive], *, lost: Callable[[str], None] = lambda line: None
) -> FileReader:
    """A reader of drives that are opened one by one; closes them when one cannot be."""
    with ExitStack() as opened:
        held = [opened.enter_context(closing(drive)) for drive in drives]
        reader = FileReader(held, lost=lost)
        opened.pop_all()
    return reader


def open_reader(
    paths: Sequence[str | os.PathLike[str]],
    *,
    cached: bool = False,
    threads: int | None = None,
    piece: int | None = None,
) -> FileReader:
    """A reader of these files alone; see `open_drive`."""
    drives = (open_drive(paths, cached=cached, threads=threads, piece=piece) for _ in range(1))
    return read_from(drives)
