"""Reading through a ring with nothing computed: what a drive gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flexinfer.memory.pages import Arena
from flexinfer.reading.reader import Reader, Transfer
from flexinfer.reading.waiting import Waiting


def sweep(
    reader: Reader,
    arena: Arena,
    ranges: Iterable[tuple[int, int, int]],
    place: int,
    waiting: Waiting | None = None,
) -> int:
    """Read all `ranges`, as many at a time as places fit the arena; returns their bytes.

    Args:
        ranges: file, first byte and number of bytes of each; asked for one by one, so that they
            may end when time is up.
        place: bytes of the ring that each takes.
        waiting: how long for one range.

    Raises:
        ReadError: the drive failed, or did not answer for too long.
    """
    waiting = waiting or Waiting()
    places = arena.nbytes // place
    flying: deque[tuple[Transfer, int, int]] = deque()
    total = 0

    def settle() -> int:
        transfer, file, nbytes = flying.popleft()
        waiting.wait_for(transfer, f"file {file}")
        return nbytes

    for number, (file, start, nbytes) in enumerate(ranges):
        if len(flying) == places:
            total += settle()
        view = arena.view(number % places * place, place)
        flying.append((reader.start(file, start, view, nbytes), file, nbytes))
    while flying:
        total += settle()
    return total
