"""Rows on demand: a table of which `GET_ROWS` reads a few rows is never read as a whole.

The rows lie where they would lie in the whole table, in address space that is backed page by
page, so ids and strides stay as they are; after the pass the pages go back.
"""

from __future__ import annotations

import mmap

from flexinfer.layout import Part, RowTable
from flexinfer.pages import address_of
from flexinfer.reader import Reader

_MAP_NORESERVE = 0x4000


class RowStore:
    """Backs the rows of one table, read through `reader`."""

    def __init__(self, part: Part, row_bytes: int, reader: Reader) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._map = mmap.mmap(-1, part.nbytes, flags=flags)
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self._reader = reader
        self.table = RowTable(part, address_of(self._map), row_bytes)

    def fetch(self, rows: list[int]) -> int:
        """Read `rows` (ascending) into their places; returns the bytes read.

        Raises:
            ReadError: the drive failed.
        """
        size = self.table.row_bytes
        part = self.table.part
        with memoryview(self._map) as memory:
            for first, count in _runs(rows):
                start, nbytes = first * size, count * size
                target = memory[start : start + nbytes]
                self._reader.read_into(part.file, part.offset + start, target)
                target.release()
        return len(rows) * size

    def drop(self) -> None:
        """Give the pages of all rows back to the system."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        self._map.close()


def _runs(rows: list[int]) -> list[tuple[int, int]]:
    """Consecutive rows as (first, count)."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs
