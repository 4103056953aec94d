"""A reader without a drive: bytes in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flexinfer.errors import ReadError
from flexinfer.reading.reader import CLOSE_SECONDS, Transfer, Treatment, check_range, enclosing
from flexinfer.sizes import ALIGNMENT


class MemoryReader:
    """Serves `blobs` as files; a transfer is done when `start` returns."""

    drives = ()

    def __init__(self, blobs: Sequence[bytes], *, alignment: int = ALIGNMENT) -> None:
        self.alignment = alignment
        self.blobs = tuple(blobs)
        self.bytes_read = 0
        self.busy_s = 0.0
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.bytes_read} bytes read"
        return f"<MemoryReader {len(self.blobs)} files, {state}>"

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        return enclosing(offset, length, self.alignment)

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
        self._check_open()
        check_range(self, start, view, need)
        transfer = Transfer(treat)
        transfer.begun = True
        try:
            self._copy(file, start, view, need)
        except ReadError as error:
            transfer.finish(error)
        else:
            transfer.finish(transfer.treated())
        return transfer

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        self._check_open()
        self._copy(file, offset, view, len(view))

    def check(self) -> None:
        pass

    def leave_hanging(self, transfer: Transfer | None = None) -> bool:
        return False

    def cancel(self, timeout: float | None = None) -> bool:
        return True

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ReadError("the reader is closed")

    def _copy(self, file: int, start: int, view: memoryview, need: int) -> None:
        began = time.perf_counter()
        data = memoryview(self.blobs[file])[start : start + len(view)]
        view[: len(data)] = data
        self.bytes_read += len(data)
        self.busy_s += time.perf_counter() - began
        if len(data) < need:
            raise ReadError(
                f"blob {file} ends at byte {len(self.blobs[file])}, but {need} bytes are "
                f"needed from {start}"
            )
