"""Rows on demand: a table of which `GET_ROWS` reads a few rows is never read as a whole.

The rows lie where they would lie in the whole table, in address space that is backed page by
page, so ids and strides stay as they are; after the pass the pages go back.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from flexinfer import waiting
from flexinfer.layout import Part, RowTable
from flexinfer.pages import address_of
from flexinfer.reader import Reader

_MAP_NORESERVE = 0x4000


class RowStore:
    """Backs the rows of one table, read through `reader`.

    `check` is called while waiting for the drive and raises to stop the wait.
    """

    def __init__(
        self,
        part: Part,
        row_bytes: int,
        reader: Reader,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        # The file's first aligned byte comes first, so that a direct read lands in place.
        self._start, stop = reader.span(part.file, part.offset, part.nbytes)
        self._reader = reader
        self._check = check
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._map = mmap.mmap(-1, stop - self._start, flags=flags)
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.table = RowTable(part, address_of(self._map) + part.offset - self._start, row_bytes)

    def fetch(self, rows: list[int]) -> int:
        """Read `rows` (ascending) into their places; returns the bytes read.

        Raises:
            ReadError: the drive failed or does not answer.
        """
        part = self.table.part
        read = 0
        transfers = []
        for start, stop, last in self._spans(rows):
            view = memoryview(self._map)[start - self._start : stop - self._start]
            transfers.append(self._reader.start(part.file, start, view, last - start))
            read += stop - start
        try:
            for transfer in transfers:
                waiting.wait_for(transfer, f"{part.name} (file {part.file})", self._check)
        except BaseException:
            self._reader.cancel(waiting.CANCEL_SECONDS)
            raise
        return read

    def drop(self) -> None:
        """Give the pages of all rows back to the system."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        self.drop()
        try:
            self._map.close()
        except BufferError:
            del self._map  # a read that hangs holds a view; the last one unmaps it

    def _spans(self, rows: list[int]) -> list[tuple[int, int, int]]:
        """Aligned ranges of the file that hold the rows, as (start, stop, last byte needed)."""
        part, size = self.table.part, self.table.row_bytes
        spans: list[tuple[int, int, int]] = []
        for row in rows:
            first = part.offset + row * size
            start, stop = self._reader.span(part.file, first, size)
            if spans and start <= spans[-1][1]:
                start = spans.pop()[0]
            spans.append((start, stop, first + size))
        return spans
