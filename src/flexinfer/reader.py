"""Model files read in large aligned pieces by a few threads.

The pieces of one transfer are spread over all threads and transfers are served in the order in
which they were started, so the one needed next is complete first. The threads hold the
interpreter lock for microseconds a piece.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
import weakref
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Protocol

from flexinfer.directio import ALIGNMENT, Access, OpenFile
from flexinfer.errors import ReadError

DEFAULT_THREADS = 4
DEFAULT_PIECE = 1 << 20
_BOUNCE_BYTES = 256 << 10
# A thread in a read that hangs ends, and closes the files, when the drive answers.
_CLOSE_SECONDS = 5.0


class Transfer:
    """Bytes on their way into memory; the reader that made it calls `finish` once.

    `done` means that nothing writes to the memory any more, also when `error` is set.
    """

    __slots__ = ("_latch", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: ReadError | None = None
        self._latch = threading.Lock()
        self._latch.acquire()

    def __repr__(self) -> str:
        state = repr(self.error) if self.error else "done" if self.done else "under way"
        return f"<{type(self).__name__} {state}>"

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is done, after at most `timeout` seconds (None: however long it takes)."""
        if self.done:
            return True
        if self._latch.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            self._latch.release()
        return self.done

    def finish(self, error: ReadError | None = None) -> None:
        """It is over; an error that was set before stays."""
        self.error = self.error or error
        self.done = True
        self._latch.release()


class Reader(Protocol):
    """What the engine needs of a source of bytes. Files are known by their index."""

    alignment: int

    @property
    def bytes_read(self) -> int:
        """Bytes that arrived."""

    @property
    def pieces(self) -> int:
        """Reads that were made."""

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one transfer was under way."""

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        """The smallest aligned range, as (start, stop), that holds the bytes."""

    def start(self, file: int, start: int, view: memoryview, need: int) -> Transfer:
        """Begin to fill `view` from byte `start`.

        Only the first `need` bytes must exist. `start` and the length of `view` are multiples of
        `alignment`, and so is the address of `view`.
        """

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        """Read a few bytes at any offset into any memory, now. Raises ReadError."""

    def check(self) -> None:
        """Raise ReadError when a file is no longer what it was when it was opened."""

    def cancel(self, timeout: float | None = None) -> bool:
        """Drop what is queued and wait for what runs; False when that takes too long.

        All transfers that were not complete end with a ReadError.
        """

    def close(self) -> None:
        """Cancel, and give threads and files back."""


class _Queued(Transfer):
    __slots__ = ("left",)

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.left = pieces


class _Piece:
    __slots__ = ("file", "need", "offset", "transfer", "view")

    def __init__(
        self, transfer: _Queued, file: OpenFile, offset: int, view: memoryview, need: int
    ) -> None:
        self.transfer = transfer
        self.file = file
        self.offset = offset
        self.view = view
        self.need = need


class _Pool:
    """Threads and their queue. It knows no reader, so a forgotten reader can be collected."""

    def __init__(self, threads: int, files: Sequence[OpenFile]) -> None:
        self.files = files
        self.queue: SimpleQueue[_Piece | None] = SimpleQueue()
        self.bytes_read = 0
        self.pieces = 0
        self.open: set[_Queued] = set()
        self._lock = threading.Lock()
        self._busy = 0.0
        self._busy_since = 0.0
        self._serving = threads
        self.threads = [
            threading.Thread(target=self._serve, name=f"flexinfer-read-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    @property
    def busy_s(self) -> float:
        with self._lock:
            running = time.perf_counter() - self._busy_since if self.open else 0.0
            return self._busy + running

    def submit(self, transfer: _Queued, pieces: Sequence[_Piece]) -> None:
        with self._lock:
            if not self.open:
                self._busy_since = time.perf_counter()
            self.open.add(transfer)
        for piece in pieces:
            self.queue.put(piece)

    def count(self, nbytes: int, pieces: int = 1) -> None:
        with self._lock:
            self.bytes_read += nbytes
            self.pieces += pieces

    def drop_queued(self) -> None:
        error = ReadError("the read was cancelled")
        while True:
            try:
                piece = self.queue.get_nowait()
            except Empty:
                break
            if piece is None:  # a thread's order to end; nothing comes after those
                self.queue.put(piece)
                break
            self._done(piece, 0, error)
        with self._lock:
            for transfer in self.open:
                transfer.error = transfer.error or error

    def wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            running = list(self.open)
        return all(
            transfer.wait(None if deadline is None else deadline - time.monotonic())
            for transfer in running
        )

    def end(self) -> None:
        """Let the threads end after what is queued, and close the files. Never blocks."""
        for _ in self.threads:
            self.queue.put(None)

    def join(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self) -> None:
        while (piece := self.queue.get()) is not None:
            error: ReadError | None = None
            count = 0
            if piece.transfer.error is None:
                try:
                    count = piece.file.read(piece.offset, piece.view, piece.need)
                except ReadError as failure:
                    error = failure
                except Exception as failure:
                    error = ReadError(f"{piece.file.path}: {failure}")
                    error.__cause__ = failure
            self._done(piece, count, error)
            del piece, error
        with self._lock:
            self._serving -= 1
            last = not self._serving
        # The last one out closes: no thread can read from a descriptor's number used again.
        if last:
            for file in self.files:
                file.close()

    def _done(self, piece: _Piece, count: int, error: ReadError | None) -> None:
        piece.view.release()
        transfer = piece.transfer
        with self._lock:
            if count:
                self.bytes_read += count
                self.pieces += 1
            if error is not None and transfer.error is None:
                transfer.error = error
            transfer.left -= 1
            if transfer.left:
                return
            self.open.discard(transfer)
            if not self.open:
                self._busy += time.perf_counter() - self._busy_since
        transfer.finish()


class FileReader:
    """Reads files by direct I/O over `threads` threads in pieces of `piece` bytes.

    Args:
        files: opened files; the reader closes them.
        threads: how many reads run at a time.
        piece: bytes of one read, a multiple of 4096.
    """

    alignment = ALIGNMENT

    def __init__(self, files: Sequence[OpenFile], *, threads: int, piece: int) -> None:
        if threads < 1 or piece < ALIGNMENT or piece % ALIGNMENT:
            raise ValueError(f"cannot read with {threads} threads in pieces of {piece} bytes")
        self.files = tuple(files)
        self.piece = piece
        self._pool = _Pool(threads, self.files)
        self._bounce_lock = threading.Lock()
        self._bounce: mmap.mmap | None = None
        # A forgotten reader may be collected in any thread, even in ours: it must not wait.
        self._alive = weakref.finalize(self, self._pool.end)

    def __repr__(self) -> str:
        state = f"{len(self._pool.open)} under way" if self._alive.alive else "closed"
        return (
            f"<FileReader {len(self.files)} files, {self.threads} x {self.piece} bytes, {state}>"
        )

    @property
    def threads(self) -> int:
        return len(self._pool.threads)

    @property
    def bytes_read(self) -> int:
        return self._pool.bytes_read

    @property
    def pieces(self) -> int:
        return self._pool.pieces

    @property
    def busy_s(self) -> float:
        return self._pool.busy_s

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        start = offset // ALIGNMENT * ALIGNMENT
        return start, -(-(offset + length) // ALIGNMENT) * ALIGNMENT

    def start(self, file: int, start: int, view: memoryview, need: int) -> Transfer:
        nbytes = len(view)
        if start % ALIGNMENT or nbytes % ALIGNMENT or not 0 < need <= nbytes:
            raise ValueError(f"{need} of {nbytes} bytes at {start} are no aligned range")
        if not self._alive.alive:
            raise ReadError("the reader is closed")
        step, source = self.piece, self.files[file]
        cuts = range(0, need, step)
        transfer = _Queued(len(cuts))
        pieces = [
            _Piece(transfer, source, start + at, view[at : at + step], min(step, need - at))
            for at in cuts
        ]
        self._pool.submit(transfer, pieces)
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

    def close(self) -> None:
        if self._alive.detach():
            self._pool.drop_queued()
            self._pool.end()
            self._pool.join(_CLOSE_SECONDS)

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
        for path in paths:
            files.append(OpenFile(path, cached=cached))
        return FileReader(
            files, threads=threads or DEFAULT_THREADS, piece=piece or DEFAULT_PIECE
        )
    except BaseException:
        for file in files:
            file.close()
        raise
