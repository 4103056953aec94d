"""Threads that serve the pieces of transfers, urgent ones first, else first come, first served.

A thread holds the interpreter lock for microseconds a piece: one call of a C queue, one read, one
short lock. Whoever reads the last piece of a transfer also treats what was read.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from flexinfer.errors import BudgetError, ReadError
from flexinfer.memory.refusals import start_thread
from flexinfer.reading.open_file import OpenFile
from flexinfer.reading.reader import Transfer, Treatment

# A thread in a read that hangs is left behind when the process ends.
_EXIT_SECONDS = 5.0


class QueuedTransfer(Transfer):
    """A transfer in pieces, of which `left` are not over yet."""

    __slots__ = ("left",)

    def __init__(
        self, pieces: int, treat: Treatment | None = None, memory: memoryview | None = None
    ) -> None:
        super().__init__(treat, memory)
        self.left = pieces


class Piece:
    """One read: bytes of `file` from `offset` into `view`, of which the first `need` must exist."""

    __slots__ = ("file", "need", "offset", "transfer", "view")

    def __init__(
        self, transfer: QueuedTransfer, file: OpenFile, offset: int, view: memoryview, need: int
    ) -> None:
        self.transfer = transfer
        self.file = file
        self.offset = offset
        self.view = view
        self.need = need


class ReadThreads:
    """Threads and their queue. It knows no reader, so a forgotten reader can be collected.

    Args:
        threads: how many; each makes one read at a time.
        files: closed by the last thread that ends.

    Attributes:
        bytes_read: that arrived so far.
        open: transfers that are not over.
        busy_s: seconds in which there were some.
    """

    def __init__(self, threads: int, files: Sequence[OpenFile]) -> None:
        self.files = files
        # One True for each piece in the two lines; False tells a thread to end.
        self.queue: SimpleQueue[bool] = SimpleQueue()
        self._urgent: deque[Piece] = deque()
        self._ahead: deque[Piece] = deque()
        self.bytes_read = 0
        self.open: set[QueuedTransfer] = set()
        self._lock = threading.Lock()
        # Transfers of which bytes are still to come: what is treated keeps no drive busy.
        self._reading = 0
        self._busy = 0.0
        self._busy_since = 0.0
        self._serving = threads
        self.threads = [
            threading.Thread(target=self._serve, name=f"flexinfer-read-{n}", daemon=True)
            for n in range(threads)
        ]
        try:
            for thread in self.threads:
                start_thread(thread)
        except BudgetError:
            self._serving = sum(thread.ident is not None for thread in self.threads)
            self.end()  # those that run; whoever opened the files closes them as well
            raise
        # Later the interpreter runs no thread any more, and a transfer under way never ends.
        atexit.register(self._exit)

    @property
    def busy_s(self) -> float:
        with self._lock:
            running = time.perf_counter() - self._busy_since if self._reading else 0.0
            return self._busy + running

    def submit(
        self, transfer: QueuedTransfer, pieces: Sequence[Piece], *, urgent: bool = False
    ) -> None:
        """Queue all pieces of a transfer, before those that are not urgent if it is."""
        with self._lock:
            if not self._reading:
                self._busy_since = time.perf_counter()
            self._reading += 1
            self.open.add(transfer)
        (self._urgent if urgent else self._ahead).extend(pieces)
        for _ in pieces:
            self.queue.put(True)

    def count(self, nbytes: int) -> None:
        """Add bytes that were read outside of the queue."""
        with self._lock:
            self.bytes_read += nbytes

    def drop_queued(self) -> None:
        """End what no thread has begun; every open transfer gets an error."""
        error = ReadError("the read was cancelled")
        while True:
            try:
                more = self.queue.get_nowait()
            except Empty:
                break
            if not more:  # nothing comes after the threads' orders to end
                self.queue.put(more)
                break
            self._done(self._next(), 0, error)
        with self._lock:
            for transfer in self.open:
                transfer.error = transfer.error or error

    def wait(self, timeout: float | None) -> bool:
        """Whether all transfers open now are over, after at most `timeout` seconds."""
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
            self.queue.put(False)

    def join(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all threads have ended."""
        deadline = time.monotonic() + timeout
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _exit(self) -> None:
        self.drop_queued()
        self.end()
        self.join(_EXIT_SECONDS)

    def _serve(self) -> None:
        while self.queue.get():
            piece = self._next()
            error: ReadError | None = None
            count = 0
            if piece.transfer.error is None:
                piece.transfer.begun = True
                try:
                    count = piece.file.read(piece.offset, piece.view, piece.need)
                except ReadError as failure:
                    error = failure
                except Exception as failure:  # or the transfer would never end
                    error = ReadError(f"{piece.file.path}: {failure}")
                    error.__cause__ = failure
            self._done(piece, count, error)
            del piece, error
        with self._lock:
            self._serving -= 1
            last = not self._serving
        # The last one out closes: no thread can read from a descriptor's number used again.
        if last:
            atexit.unregister(self._exit)
            for file in self.files:
                file.close()

    def _next(self) -> Piece:
        """A piece for whoever took a True from the queue; there is one for each."""
        try:
            return self._urgent.popleft()
        except IndexError:
            return self._ahead.popleft()

    def _done(self, piece: Piece, count: int, error: ReadError | None) -> None:
        piece.view.release()
        transfer = piece.transfer
        with self._lock:
            self.bytes_read += count
            if error is not None and transfer.error is None:
                transfer.error = error
            transfer.left -= 1
            if transfer.left:
                return
            self._reading -= 1
            if not self._reading:
                self._busy += time.perf_counter() - self._busy_since
        failure = transfer.treated()
        with self._lock:
            self.open.discard(transfer)
        transfer.finish(failure)
