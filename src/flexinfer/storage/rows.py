"""Rows on demand: a table of which `GET_ROWS` reads a few rows is never read as a whole.

The rows lie where they would lie in the whole table, in address space that is backed page by
page, so ids and strides stay as they are; after the pass the pages go back.
"""

from __future__ import annotations

import mmap
import threading
from queue import SimpleQueue

from flexinfer.errors import ReadError
from flexinfer.memory.pages import address_of, map_unreserved
from flexinfer.memory.refusals import start_thread
from flexinfer.reading.reader import Reader, Transfer
from flexinfer.reading.waiting import Waiting
from flexinfer.seam import Part, RowTable

_Job = tuple[list[int], Transfer]


class RowStore:
    """Backs the rows of one table, read through `reader`.

    A thread of its own reads: rows must not queue behind the weights that are read ahead, and the
    pass that waits for them must be able to give up.

    Args:
        part: the whole table as the file has it.
        row_bytes: bytes of one row.
        reader: of the model's files.
        waiting: for the drive.
    """

    def __init__(
        self,
        part: Part,
        row_bytes: int,
        reader: Reader,
        waiting: Waiting,
    ) -> None:
        self._map = map_unreserved(part.nbytes, f"{part.name}, of which rows are read,")
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self._reader = reader
        self._waiting = waiting
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.table = RowTable(part, address_of(self._map), row_bytes)

    def fetch(self, rows: list[int]) -> int:
        """Read `rows` (ascending) into their places; returns the bytes read.

        Raises:
            ReadError: the drive failed or does not answer. A late answer does no harm: it writes
                what belongs there.
        """
        while not self._arrive(rows):
            # The thread is left behind with its read.
            self._jobs.put(None)
            self._jobs, self._thread = SimpleQueue(), None
        return len(rows) * self.table.row_bytes

    def _arrive(self, rows: list[int]) -> bool:
        """Have `rows` read; False when the drive hangs and another is left."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._serve, args=(self._jobs,), name="flexinfer-rows", daemon=True
            )
            start_thread(self._thread)
        transfer = Transfer()
        self._jobs.put((rows, transfer))
        part = self.table.part
        try:
            self._waiting.wait_for(transfer, f"rows of {part.name} (file {part.file})")
        except ReadError:
            if transfer.done or not self._reader.leave_hanging():
                raise
            return False
        return True

    def drop(self) -> None:
        """Give the pages of all rows back to the system."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        self.drop()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(self._waiting.cancel_s)
        try:
            self._map.close()
        except BufferError:
            del self._map  # a read that hangs or its error hold a view; the last one unmaps it

    def _serve(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            rows, transfer = job
            error: ReadError | None = None
            try:
                self._read(rows)
            except ReadError as failure:
                error = failure
            except Exception as failure:  # or the pass would wait for nothing
                error = ReadError(f"{self.table.part.name}: {failure}")
                error.__cause__ = failure
            transfer.finish(error)
            del job, transfer, error

    def _read(self, rows: list[int]) -> None:
        part, size = self.table.part, self.table.row_bytes
        with memoryview(self._map) as memory:
            for first, count in _runs(rows):
                start, nbytes = first * size, count * size
                with memory[start : start + nbytes] as target:
                    self._reader.read_into(part.file, part.offset + start, target)


class RowStores:
    """One store for each table of a model.

    Args:
        reader: of the model's files.
        waiting: for the drive.

    Attributes:
        read_bytes: of all rows so far.
    """

    def __init__(self, reader: Reader, waiting: Waiting) -> None:
        self.read_bytes = 0
        self._reader = reader
        self._waiting = waiting
        self._stores: dict[int, RowStore] = {}

    def table(self, address: int, part: Part, row_bytes: int) -> RowTable:
        """The table that ggml knows by this address: the same one whenever it is asked for."""
        if address not in self._stores:
            self._stores[address] = RowStore(part, row_bytes, self._reader, self._waiting)
        return self._stores[address].table

    def fetch(self, table: RowTable, rows: list[int]) -> int:
        """Address of the table, once `rows` of it are in memory."""
        store = next(store for store in self._stores.values() if store.table is table)
        self.read_bytes += store.fetch(rows)
        return table.address

    def drop(self) -> None:
        """Give the pages of all rows back to the system."""
        for store in self._stores.values():
            store.drop()

    def close(self) -> None:
        for store in self._stores.values():
            store.close()
        self._stores.clear()


def _runs(rows: list[int]) -> list[tuple[int, int]]:
    """Consecutive rows as (first, count)."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs
