"""A ring of bytes: places handed out in order, given back in the same order.

Pure bookkeeping over offsets; the memory behind it belongs to the caller.
"""

from __future__ import annotations

from collections import deque


class Ring:
    """Contiguous places in a window of `size` bytes, first in, first out."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._places: deque[tuple[int, int]] = deque()

    def __repr__(self) -> str:
        return f"<Ring {self.used} of {self.size} bytes in {len(self._places)} places>"

    def __len__(self) -> int:
        return len(self._places)

    @property
    def used(self) -> int:
        """Bytes handed out; a gap skipped at the end of the window does not count."""
        return sum(nbytes for _, nbytes in self._places)

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Offset and bytes of what is handed out, the oldest first."""
        return tuple(self._places)

    def push(self, nbytes: int) -> int | None:
        """Offset of a new place after the newest one, or None while it does not fit."""
        offset = self._fit(nbytes)
        if offset is not None:
            self._places.append((offset, nbytes))
        return offset

    def pop(self) -> None:
        """Give back the oldest place."""
        self._places.popleft()

    def unpush(self) -> None:
        """Give back the newest place."""
        self._places.pop()

    def _fit(self, nbytes: int) -> int | None:
        if not self._places:
            return 0 if nbytes <= self.size else None
        tail = self._places[0][0]
        newest, length = self._places[-1]
        head = newest + length
        if newest >= tail:  # not wrapped: room after the newest, or before the oldest
            if head + nbytes <= self.size:
                return head
            return 0 if nbytes <= tail else None
        return head if head + nbytes <= tail else None
