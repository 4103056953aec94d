"""The memory that weights stream through: places in order, replaced where a drive may still write.

A read that hangs keeps the memory it was asked to fill until nobody computes with what lies there.
"""

from __future__ import annotations

from flexinfer.memory.pages import Arena, Slot
from flexinfer.storage.ring import Ring


class Window:
    """A ring with its memory.

    Args:
        nbytes: of it; 0: nothing is streamed, and it has none.
    """

    def __init__(self, nbytes: int) -> None:
        self._ring = Ring(nbytes)
        self._arena = Arena(nbytes) if nbytes else None
        # What a drive may still write to, with what the pass uses of it.
        self._left: list[Arena] = []

    def __repr__(self) -> str:
        left = f", {len(self._left)} left behind" if self._left else ""
        return f"<Window {self._ring!r}{left}>"

    @property
    def nbytes(self) -> int:
        """Bytes that it holds at most."""
        return self._ring.size

    @property
    def resident(self) -> int:
        """Bytes of memory behind it, in whole pages."""
        return sum(arena.resident for arena in (self._arena, *self._left) if arena is not None)

    def push(self, nbytes: int) -> tuple[int, memoryview] | None:
        """Address and memory of a new place after the newest one; None while it does not fit."""
        offset = self._ring.push(nbytes)
        if offset is None or self._arena is None:
            return None
        return self._arena.address + offset, self._arena.view(offset, nbytes)

    def pop(self) -> None:
        """Give back the oldest place."""
        self._ring.pop()

    def unpush(self) -> None:
        """Give back the newest place."""
        self._ring.unpush()

    def leave_behind(self) -> None:
        """Take other memory. What has arrived is used where it lies, until `forget_left`."""
        if self._arena is None:
            return
        self._arena.empty_but(Slot(*place) for place in self._ring.places)
        self._left.append(self._arena)
        self._arena, self._ring = Arena(self.nbytes), Ring(self.nbytes)

    def forget_left(self) -> None:
        """Nothing of what was left behind is used any more."""
        for arena in self._left:
            arena.close()
        self._left.clear()

    def close(self) -> None:
        self.forget_left()
        if self._arena is not None:
            self._arena.close()
