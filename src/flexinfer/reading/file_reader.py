"""Model files read in large aligned pieces by a few threads.

The pieces of one transfer are spread over all threads and transfers are served in the order in
which they were started, so the one needed next is complete first; only what could not be known
before overtakes. The threads hold the
interpreter lock for microseconds a piece.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Sequence

from flexinfer.errors import ReadError
from flexinfer.reading.open_file import Access, OpenFile
from flexinfer.reading.reader import CLOSE_SECONDS, Transfer, Treatment, check_range
from flexinfer.reading.threads import Piece, QueuedTransfer, ReadThreads
from flexinfer.sizes import ALIGNMENT

# More threads or smaller pieces read no faster and take more of a processor that computes.
DEFAULT_THREADS = 4
DEFAULT_PIECE = 4 << 20
_BOUNCE_BYTES = 256 << 10


class FileReader:
    """Reads files by direct I/O over `threads` threads in pieces of `piece` bytes.

    Args:
        files: opened files; the reader closes them.
        threads: how many reads run at a time.
        piece: bytes of one read, a multiple of `sizes.ALIGNMENT`.
    """

    alignment = ALIGNMENT

    def __init__(self, files: Sequence[OpenFile], *, threads: int, piece: int) -> None:
        if threads < 1 or piece < ALIGNMENT or piece % ALIGNMENT:
            raise ValueError(f"cannot read with {threads} threads in pieces of {piece} bytes")
        self.files = tuple(files)
        self.piece = piece
        self._pool = ReadThreads(threads, self.files)
        self._bounce_lock = threading.Lock()
        self._bounce: mmap.mmap | None = None
        # A forgotten reader may be collected in any thread, even in ours: it must not wait.
        self._alive = weakref.finalize(self, self._pool.end)

    def __repr__(self) -> str:
        state = f"{len(self._pool.open)} under way" if self._alive.alive else "closed"
        return f"<FileReader {len(self.files)} files, {self.threads} x {self.piece} bytes, {state}>"

    @property
    def threads(self) -> int:
        return len(self._pool.threads)

    @property
    def bytes_read(self) -> int:
        return self._pool.bytes_read

    @property
    def busy_s(self) -> float:
        return self._pool.busy_s

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        start = offset // ALIGNMENT * ALIGNMENT
        return start, -(-(offset + length) // ALIGNMENT) * ALIGNMENT

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
        if not self._alive.alive:
            raise ReadError("the reader is closed")
        step, source = self.piece, self.files[file]
        cuts = range(0, need, step)
        transfer = QueuedTransfer(len(cuts), treat, view)
        pieces = [
            Piece(transfer, source, start + at, view[at : at + step], min(step, need - at))
            for at in cuts
        ]
        self._pool.submit(transfer, pieces, urgent=urgent)
        return transfer

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        if not self._alive.alive:
            raise ReadError("the reader is closed")
        source = self.files[file]
        if source.access is not Access.DIRECT:
            self._pool.count(source.read(offset, view, len(view)))
            return
        with self._bounce_lock:
            self._read_bounced(source, file, offset, view)

    def check(self) -> None:
        for file in self.files:
            file.check()

    def cancel(self, timeout: float | None = None) -> bool:
        self._pool.drop_queued()
        return self._pool.wait(timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        if self._alive.detach():
            self._pool.drop_queued()
            self._pool.end()
            self._pool.join(timeout)

    def _read_bounced(self, source: OpenFile, file: int, offset: int, view: memoryview) -> None:
        if self._bounce is None:
            self._bounce = mmap.mmap(-1, _BOUNCE_BYTES)
        with memoryview(self._bounce) as bounce:
            done = 0
            while done < len(view):
                at = offset + done
                length = min(len(view) - done, _BOUNCE_BYTES - ALIGNMENT)
                start, stop = self.span(file, at, length)
                inside = at - start
                count = source.read(start, bounce[: stop - start], inside + length)
                view[done : done + length] = bounce[inside : inside + length]
                self._pool.count(count)
                done += length


def open_reader(
    paths: Sequence[str | os.PathLike[str]],
    *,
    cached: bool = False,
    threads: int | None = None,
    piece: int | None = None,
) -> FileReader:
    """A reader of the files: direct where possible, else buffered with a clean page cache.

    Args:
        paths: files, known by their index from now on.
        cached: read through the page cache and leave it as it is.
        threads: reads at a time (None: a default that suits most drives).
        piece: bytes of one read.

    Raises:
        ModelNotFoundError: a file is missing or may not be read.
    """
    files: list[OpenFile] = []
    try:
        files.extend(OpenFile(path, cached=cached) for path in paths)
        return FileReader(files, threads=threads or DEFAULT_THREADS, piece=piece or DEFAULT_PIECE)
    except BaseException:
        for file in files:
            file.close()
        raise
