"""One drive with a copy of the model: its open files, what it gave, whether it is left aside."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence

from flexinfer.errors import ReadError
from flexinfer.reading.open_file import Access, OpenFile
from flexinfer.reading.reader import DriveUse, enclosing
from flexinfer.sizes import ALIGNMENT

# More threads or smaller pieces read no faster and take more of a processor that computes.
DEFAULT_THREADS = 4
DEFAULT_PIECE = 4 << 20
_BOUNCE_BYTES = 256 << 10
# Expected of a drive of which nobody knows more.
_RATE = 500e6
# What the newest read counts for in the pace.
_NEWEST = 1 / 8
_LEAST_SECONDS = 1e-6


class Drive:
    """The files of one copy, opened, and how they are best read.

    Args:
        files: in the order of the model's; `close` closes them.
        threads: how many reads run at a time.
        piece: bytes of one read, a multiple of `sizes.ALIGNMENT`.
        rate: bytes/s that all its threads together are expected to read.

    Attributes:
        bytes_read: that arrived so far.
        cpu_s: processor seconds that the reads of its threads took.
        pace: seconds that a byte takes in one of its reads, of the last reads.
        failure: why it is left aside; None as long as it is read.
    """

    def __init__(
        self, files: Sequence[OpenFile], *, threads: int, piece: int, rate: float = _RATE
    ) -> None:
        if threads < 1 or piece < ALIGNMENT or piece % ALIGNMENT:
            raise ValueError(f"cannot read with {threads} threads in pieces of {piece} bytes")
        self.files = tuple(files)
        self.threads = threads
        self.piece = piece
        self.bytes_read = 0
        self.cpu_s = 0.0
        self.pace = threads / rate
        self.failure: ReadError | None = None
        self._bounce_lock = threading.Lock()
        self._bounce: mmap.mmap | None = None

    def __repr__(self) -> str:
        state = "left aside" if self.failure else f"{self.bytes_read} bytes read"
        return f"<Drive {self.path!r}, {self.threads} x {self.piece} bytes, {state}>"

    @property
    def path(self) -> str:
        """Of its first file; names it."""
        return self.files[0].path if self.files else ""

    @property
    def rate(self) -> float:
        """Bytes/s of all its threads, as reads went lately."""
        return self.threads / self.pace

    @property
    def use(self) -> DriveUse:
        failure = str(self.failure) if self.failure else None
        return DriveUse(self.path, self.bytes_read, failure, self.cpu_s)

    def note(self, nbytes: int, seconds: float, cpu_s: float = 0.0) -> None:
        """Take in one read of the threads, and the processor seconds that it took."""
        self.bytes_read += nbytes
        self.cpu_s += cpu_s
        if nbytes:
            self.pace += _NEWEST * (max(seconds, _LEAST_SECONDS) / nbytes - self.pace)

    def read_into(self, file: int, offset: int, view: memoryview) -> int:
        """Fill `view` from any byte; returns the bytes that were read for it.

        Raises:
            ReadError: the drive failed.
        """
        source = self.files[file]
        if source.access is not Access.DIRECT:
            return source.read(offset, view, len(view))
        with self._bounce_lock:
            return self._read_bounced(source, offset, view)

    def check(self) -> None:
        """Raise ReadError when a file is no longer what it was when it was opened."""
        for file in self.files:
            file.check()

    def close(self) -> None:
        for file in self.files:
            file.close()

    def _read_bounced(self, source: OpenFile, offset: int, view: memoryview) -> int:
        if self._bounce is None:
            self._bounce = mmap.mmap(-1, _BOUNCE_BYTES)
        done = count = 0
        with memoryview(self._bounce) as bounce:
            while done < len(view):
                at = offset + done
                length = min(len(view) - done, _BOUNCE_BYTES - ALIGNMENT)
                start, stop = enclosing(at, length)
                inside = at - start
                count += source.read(start, bounce[: stop - start], inside + length)
                view[done : done + length] = bounce[inside : inside + length]
                done += length
        return count


def open_drive(
    paths: Sequence[str | os.PathLike[str]],
    *,
    cached: bool = False,
    threads: int | None = None,
    piece: int | None = None,
    rate: float = _RATE,
) -> Drive:
    """The drive that holds these files: read directly where possible, else past a clean page cache.

    Args:
        paths: files, known by their index from now on.
        cached: read through the page cache and leave it as it is.
        threads: reads at a time (None: a default that suits most drives).
        piece: bytes of one read.
        rate: bytes/s that are expected of it.

    Raises:
        ModelNotFoundError: a file is missing or may not be read.
    """
    files: list[OpenFile] = []
    try:
        files.extend(OpenFile(path, cached=cached) for path in paths)
        how = {"threads": threads or DEFAULT_THREADS, "piece": piece or DEFAULT_PIECE}
        return Drive(files, **how, rate=rate)
    except BaseException:
        for file in files:
            file.close()
        raise
