"""Threads that serve the pieces of transfers, urgent ones first, else first come, first served.

Each drive has threads of its own, and all take from one line: how much of it a drive reads follows
from how fast it is. A thread holds the interpreter lock for microseconds a piece. Whoever reads the
last piece of a transfer also treats what was read.
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
from flexinfer.reading.drive import Drive
from flexinfer.reading.drives import Drives
from flexinfer.reading.pieces import Piece, QueuedTransfer

# A thread in a read that hangs is left behind when the process ends.
_EXIT_SECONDS = 5.0
# A drive that left something to the others looks again after so long.
_AGAIN_SECONDS = 2e-3


class ReadThreads:
    """Threads and their queue. It knows no reader, so a forgotten reader can be collected.

    Args:
        drives: closed by the last thread that ends.

    Attributes:
        open: transfers that are not over.
        busy_s: seconds in which there were some.
    """

    def __init__(self, drives: Drives) -> None:
        self.drives = drives
        # One True for each piece in the two lines; False tells a thread to end.
        self.queue: SimpleQueue[bool] = SimpleQueue()
        self._urgent: deque[Piece] = deque()
        self._ahead: deque[Piece] = deque()
        self.open: set[QueuedTransfer] = set()
        self._lock = threading.Lock()
        # Transfers of which bytes are still to come: what is treated keeps no drive busy.
        self._reading = 0
        self._busy = 0.0
        # Bytes that were asked for and have not arrived.
        self._outstanding = 0
        self._busy_since = 0.0
        served = [drive for drive in drives.all for _ in range(drive.threads)]
        self._serving = len(served)
        self.threads = [
            threading.Thread(
                target=self._serve, args=(drive,), name=f"flexinfer-read-{n}", daemon=True
            )
            for n, drive in enumerate(served)
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
            self._outstanding += sum(piece.need for piece in pieces)
        (self._urgent if urgent else self._ahead).extend(pieces)
        for _ in pieces:
            self.queue.put(True)

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
            self._done(self._next()[0], error)
        with self._lock:
            for transfer in self.open:
                transfer.error = transfer.error or error

    def wait(self, timeout: float | None) -> bool:
        """Whether all transfers open now are over, after at most `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            running = list(self.open)
        # What a drive owes that was left aside may never come: nobody waits for it again.
        stuck = {transfer for transfer in running if self.drives.is_stuck(transfer)}
        return not stuck and all(
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

    def _serve(self, drive: Drive) -> None:
        worked = time.thread_time()
        while self.queue.get():
            piece = self._take(drive)
            if piece is None:
                if drive.failure is not None:
                    break
                continue
            error = None if piece.transfer.error is not None else self._read(drive, piece, worked)
            if error is not None and self.drives.leave_aside(drive, error):
                self._put_back(self._urgent, piece)  # it waited for its turn already
                break
            self._done(piece, error)
            del piece, error
            worked = time.thread_time()
        self._end_thread()

    def _take(self, drive: Drive) -> Piece | None:
        """What `drive` is to read next; None: it is for the other drives."""
        if self.drives.alone:
            return self._next()[0]
        piece, line = self._next()
        nbytes = 0
        if drive.failure is None:
            nbytes = self.drives.portion(drive, self._outstanding, piece.need)
        if not nbytes:
            self._put_back(line, piece)
            time.sleep(_AGAIN_SECONDS if drive.failure is None else 0.0)
            return None
        if nbytes < piece.need:
            with self._lock:
                piece.transfer.left += 1
            self._put_back(line, piece.cut(nbytes))
        return piece

    def _put_back(self, line: deque[Piece], piece: Piece) -> None:
        line.appendleft(piece)
        self.queue.put(True)

    def _read(self, drive: Drive, piece: Piece, worked: float) -> ReadError | None:
        """Read a piece; this thread had `worked` for so many seconds before it was asked for it."""
        piece.transfer.begun = True
        began = time.perf_counter()
        try:
            with self.drives.asking(drive, piece.transfer):
                file = drive.files[piece.file]
                count = file.read(piece.offset, piece.view, piece.need)
        except ReadError as failure:
            return failure
        except Exception as failure:  # or the transfer would never end
            error = ReadError(f"{drive.path}: {failure}")
            error.__cause__ = failure
            return error
        cpu_s = time.thread_time() - worked
        self.drives.count(drive, count, time.perf_counter() - began, cpu_s)
        return None

    def _end_thread(self) -> None:
        with self._lock:
            self._serving -= 1
            last = not self._serving
        if not last:
            return
        atexit.unregister(self._exit)
        # The last one out closes: no thread can read from a descriptor's number used again.
        while self._urgent or self._ahead:
            self._done(self._next()[0], ReadError("the reader is closed"))
        for drive in self.drives.all:
            drive.close()

    def _next(self) -> tuple[Piece, deque[Piece]]:
        """A piece for whoever took a True from the queue, and its line; there is one for each."""
        try:
            return self._urgent.popleft(), self._urgent
        except IndexError:
            return self._ahead.popleft(), self._ahead

    def _done(self, piece: Piece, error: ReadError | None) -> None:
        piece.view.release()
        transfer = piece.transfer
        with self._lock:
            self._outstanding -= piece.need
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
