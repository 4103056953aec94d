"""What a source of bytes offers: transfers into memory, small reads, and an end to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flexinfer.errors import ReadError
from flexinfer.sizes import ALIGNMENT

# A thread in a read that hangs ends, and closes the files, when the drive answers.
CLOSE_SECONDS = 5.0


# Works on bytes that have arrived, where they are.
Treatment = Callable[[], None]


@dataclass(frozen=True)
class DriveUse:
    """What a drive did for a model: bytes that arrived, and why it was left aside, if it was.

    `path` is that of its first file; `cpu_s` are the processor seconds that transfers took.
    """

    path: str
    bytes_read: int
    failure: str | None = None
    cpu_s: float = 0.0


class Transfer:
    """Bytes on their way into memory; the reader that made it calls `finish` once.

    `done` means that nothing writes to the memory any more, also when `error` is set; `begun` that
    the drive was asked for some of it. `treat` is what is to be done with the bytes before that;
    it works on addresses in `memory`, which is not unmapped before it is over.
    """

    __slots__ = ("_latch", "begun", "done", "error", "memory", "treat")

    def __init__(self, treat: Treatment | None = None, memory: memoryview | None = None) -> None:
        self.treat = treat
        self.memory = memory
        self.begun = False
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

    def abandon(self) -> None:
        """Nobody wants it any more: it ends with an error, what was not begun is not read."""
        if not self.done:
            self.error = self.error or ReadError("nobody wants what is read")

    def treated(self) -> ReadError | None:
        """All bytes are there: treat them. Returns the error that this ended with, if any.

        What was given up before is not treated: some of it may be missing.
        """
        return None if self.error is not None else treated(self.treat)

    def finish(self, error: ReadError | None = None) -> None:
        """It is over; an error that was set before stays."""
        self.error = self.error or error
        self.memory = None
        self.done = True
        self._latch.release()


def treated(treat: Treatment | None) -> ReadError | None:
    """Treat bytes that are there. Returns the error that this ended with, if any."""
    try:
        if treat is not None:
            treat()
    except Exception as failure:  # or the transfer would never end
        error = ReadError(f"what was read cannot be used: {failure}")
        error.__cause__ = failure
        return error
    return None


class Reader(Protocol):
    """What storage needs of a source of bytes. Files are known by their index."""

    alignment: int

    @property
    def bytes_read(self) -> int:
        """Bytes that arrived."""

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one transfer was under way."""

    @property
    def drives(self) -> Sequence[DriveUse]:
        """The drives that are read, the model's own first; none where bytes come from elsewhere."""

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        """The smallest aligned range, as (start, stop), that holds the bytes."""

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
        """Begin to fill `view` from byte `start`; `urgent` ones may overtake those that wait.

        `treat` is called once all bytes are there, in the thread that read the last of them, and
        the transfer is done after it. Only the first `need` bytes must exist. `start` and the
        length of `view` are multiples of `alignment`, and so is the address of `view`.
        """

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        """Read a few bytes at any offset into any memory, now. Raises ReadError."""

    def check(self) -> None:
        """Raise ReadError when a file is no longer what it was when it was opened."""

    def leave_hanging(self, transfer: Transfer | None = None) -> bool:
        """Leave the drive aside that keeps `transfer` waiting; False when no other is left.

        It may still write: the transfer is not done before. None: the one asked longest ago.
        """

    def cancel(self, timeout: float | None = None) -> bool:
        """Drop what is queued and wait for what runs; False when that takes too long.

        All transfers that were not complete end with a ReadError.
        """

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Cancel, and give threads and files back; waits at most `timeout` seconds."""


def check_range(reader: Reader, start: int, view: memoryview, need: int) -> None:
    """Raise ValueError for what `Reader.start` does not take."""
    step, nbytes = reader.alignment, len(view)
    if start % step or nbytes % step or not 0 < need <= nbytes:
        raise ValueError(f"{need} of {nbytes} bytes at {start} are no aligned range")


def enclosing(offset: int, length: int, step: int = ALIGNMENT) -> tuple[int, int]:
    """The smallest range of whole steps, as (start, stop), that holds the bytes."""
    return offset // step * step, -(-(offset + length) // step) * step
