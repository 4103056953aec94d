"""Readers without a drive: bytes in memory, and any reader slowed down to a given rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from flexinfer.errors import ReadError
from flexinfer.reading.file_reader import Reader, Transfer, check_range


class MemoryReader:
    """Serves `blobs` as files; a transfer is done when `start` returns."""

    def __init__(self, blobs: Sequence[bytes], *, alignment: int = 4096) -> None:
        self.alignment = alignment
        self.blobs = tuple(blobs)
        self.bytes_read = 0
        self.pieces = 0
        self.busy_s = 0.0
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.bytes_read} bytes read"
        return f"<MemoryReader {len(self.blobs)} files, {state}>"

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        step = self.alignment
        return offset // step * step, -(-(offset + length) // step) * step

    def start(
        self, file: int, start: int, view: memoryview, need: int, *, urgent: bool = False
    ) -> Transfer:
        self._check_open()
        check_range(self, start, view, need)
        transfer = Transfer()
        transfer.begun = True
        try:
            self._copy(file, start, view, need)
        except ReadError as error:
            transfer.finish(error)
        else:
            transfer.finish()
        return transfer

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        self._check_open()
        self._copy(file, offset, view, len(view))

    def check(self) -> None:
        pass

    def cancel(self, timeout: float | None = None) -> bool:
        return True

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ReadError("the reader is closed")

    def _copy(self, file: int, start: int, view: memoryview, need: int) -> None:
        began = time.perf_counter()
        data = memoryview(self.blobs[file])[start : start + len(view)]
        view[: len(data)] = data
        self.bytes_read += len(data)
        self.pieces += 1
        self.busy_s += time.perf_counter() - began
        if len(data) < need:
            raise ReadError(
                f"blob {file} ends at byte {len(self.blobs[file])}, but {need} bytes are "
                f"needed from {start}"
            )


class SlowReader:
    """Delivers the bytes of `reader` at `rate` bytes/s, each transfer `latency` seconds later.

    Transfers share the rate in the order in which they were started, as on one drive. Closing it
    closes `reader`.
    """

    def __init__(self, reader: Reader, rate: float, latency: float = 0.0) -> None:
        if rate <= 0 or latency < 0:
            raise ValueError(f"no drive has {rate} bytes/s and a latency of {latency} s")
        self.reader = reader
        self.alignment = reader.alignment
        self.rate = rate
        self.latency = latency
        self._queue: SimpleQueue[_Delayed | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[Transfer] = set()
        self._hurry = threading.Event()
        self._free_at = 0.0
        self._busy = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="flexinfer-slow", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._open)} under way"
        return f"<SlowReader {self.rate:.0f} bytes/s, {state}, of {self.reader!r}>"

    @property
    def bytes_read(self) -> int:
        return self.reader.bytes_read

    @property
    def pieces(self) -> int:
        return self.reader.pieces

    @property
    def busy_s(self) -> float:
        """Seconds that the bytes delivered so far take at this rate."""
        return self._busy

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        return self.reader.span(file, offset, length)

    def start(
        self, file: int, start: int, view: memoryview, need: int, *, urgent: bool = False
    ) -> Transfer:
        if self._closed:
            raise ReadError("the reader is closed")
        check_range(self, start, view, need)
        delayed = _Delayed(file, start, view, need, self._due(len(view)))
        with self._lock:
            self._open.add(delayed.transfer)
        self._queue.put(delayed)
        return delayed.transfer

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        delay = self._due(len(view)) + self.latency - time.monotonic()
        self.reader.read_into(file, offset, view)
        self._hurry.wait(max(0.0, delay))

    def check(self) -> None:
        self.reader.check()

    def cancel(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        error = ReadError("the read was cancelled")
        self._hurry.set()
        self._drop_queued(error)
        with self._lock:
            running = list(self._open)
            for transfer in running:
                transfer.error = transfer.error or error
        stopped = self.reader.cancel(timeout) and all(
            transfer.wait(None if deadline is None else deadline - time.monotonic())
            for transfer in running
        )
        self._hurry.clear()
        self._free_at = 0.0
        return stopped

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.cancel(5.0)
        self._queue.put(None)
        self._thread.join(5.0)
        self.reader.close()

    def _due(self, nbytes: int) -> float:
        """When bytes asked for now have passed the drive, at its rate."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + nbytes / self.rate
            self._busy += nbytes / self.rate
            return self._free_at

    def _serve(self) -> None:
        while (delayed := self._queue.get()) is not None:
            self._finish(delayed, self._deliver(delayed))
            del delayed

    def _deliver(self, delayed: _Delayed) -> ReadError | None:
        if delayed.transfer.error is not None:
            return None
        delayed.transfer.begun = True
        try:
            inner = self.reader.start(delayed.file, delayed.start, delayed.view, delayed.need)
        except Exception as error:  # or the transfer would never end
            return error if isinstance(error, ReadError) else ReadError(str(error))
        inner.wait()
        self._hurry.wait(max(0.0, delayed.due + self.latency - time.monotonic()))
        return inner.error

    def _drop_queued(self, error: ReadError) -> None:
        while True:
            try:
                delayed = self._queue.get_nowait()
            except Empty:
                return
            if delayed is None:  # the thread's order to end; nothing comes after it
                self._queue.put(None)
                return
            self._finish(delayed, error)

    def _finish(self, delayed: _Delayed, error: ReadError | None) -> None:
        with self._lock:
            self._open.discard(delayed.transfer)
        delayed.transfer.finish(error)


class _Delayed:
    __slots__ = ("due", "file", "need", "start", "transfer", "view")

    def __init__(self, file: int, start: int, view: memoryview, need: int, due: float) -> None:
        self.transfer = Transfer()
        self.file = file
        self.start = start
        self.view = view
        self.need = need
        self.due = due
