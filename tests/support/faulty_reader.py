"""Readers that fail, or answer late, where a test says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from flexinfer.errors import ReadError
from flexinfer.reading.memory_reader import MemoryReader
from flexinfer.reading.reader import CLOSE_SECONDS, Transfer, Treatment

Fault = Callable[[Transfer], None]


def fails(message: str = "the drive failed") -> Fault:
    return lambda transfer: transfer.finish(ReadError(message))


def hangs() -> Fault:
    """Neither done nor failed, until the reader is cancelled."""
    return lambda transfer: None


class FaultyReader(MemoryReader):
    """Serves blobs; the transfers with the given numbers (from 0) meet their fault instead."""

    def __init__(self, blobs: list[bytes], faults: Mapping[int, Fault]) -> None:
        super().__init__(blobs)
        self.faults = dict(faults)
        self.started = 0
        self._hanging: list[Transfer] = []

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
        fault = self.faults.get(self.started)
        self.started += 1
        if fault is None:
            return super().start(file, start, view, need, urgent=urgent, treat=treat)
        transfer = Transfer()
        fault(transfer)
        if not transfer.done:
            self._hanging.append(transfer)
        return transfer

    def cancel(self, timeout: float | None = None) -> bool:
        for transfer in self._hanging:
            transfer.finish(ReadError("the read was cancelled"))
        self._hanging.clear()
        return True

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        self.cancel()
        super().close(timeout)


class LateReader(MemoryReader):
    """Serves blobs; the transfers with the given numbers (from 0) hang, until `answer`.

    Cancelling them takes too long, as with a drive that has begun to read.
    """

    def __init__(self, blobs: list[bytes], late: Collection[int]) -> None:
        super().__init__(blobs)
        self.late = late
        self.started = 0
        self._hanging: list[tuple[Transfer, int, int, memoryview, int]] = []

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
        self.started += 1
        if self.started - 1 not in self.late:
            return super().start(file, start, view, need, urgent=urgent, treat=treat)
        transfer = Transfer(treat, view)
        transfer.begun = True
        self._hanging.append((transfer, file, start, view, need))
        return transfer

    def answer(self) -> None:
        """The drive comes to its senses: what was asked for arrives as the file has it."""
        for transfer, file, start, view, need in self._hanging:
            self._copy(file, start, view, need)
            transfer.finish(transfer.treated())
        self._hanging.clear()

    def cancel(self, timeout: float | None = None) -> bool:
        for transfer, *_ in self._hanging:
            transfer.error = transfer.error or ReadError("the read was cancelled")
        return not self._hanging
