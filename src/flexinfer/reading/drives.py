"""Drives with copies of the same files: what each was asked for, and which are left aside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from flexinfer.errors import ReadError
from flexinfer.reading.drive import Drive
from flexinfer.reading.reader import Transfer
from flexinfer.sizes import ALIGNMENT

# Smaller reads cost a drive more than they give.
_LEAST_PORTION = 512 << 10


class Drives:
    """Who is asked, and who is not any more; the last one is never left aside.

    Args:
        drives: the model's own first.
        lost: is told in one line of a drive that is left aside.
    """

    def __init__(self, drives: Sequence[Drive], lost: Callable[[str], None]) -> None:
        self.all = tuple(drives)
        self._lost = lost
        self._lock = threading.Lock()
        # What was not answered yet, the oldest first; no transfer: bytes that are read at once.
        self._asked: dict[object, tuple[Drive, Transfer | None]] = {}

    def __repr__(self) -> str:
        return f"<Drives {list(self.all)!r}>"

    @property
    def used(self) -> list[Drive]:
        """The drives that are not left aside: one at least."""
        return [drive for drive in self.all if drive.failure is None]

    @property
    def alone(self) -> bool:
        """Whether there is one drive only."""
        return len(self.all) == 1

    @property
    def bytes_read(self) -> int:
        return sum(drive.bytes_read for drive in self.all)

    def count(self, drive: Drive, nbytes: int, seconds: float, cpu_s: float = 0.0) -> None:
        """Note a read of bytes that arrived."""
        with self._lock:
            drive.note(nbytes, seconds, cpu_s)

    def portion(self, drive: Drive, outstanding: int, most: int) -> int:
        """Bytes that `drive` may take at once of what comes next; 0: the others end sooner.

        A read takes half the time that all drives need for what is `outstanding`: what is asked for
        in order comes in order, and at the end of it no drive is waited for long.
        """
        used = self.used
        if len(used) == 1:
            return most
        together = sum(other.rate for other in used)
        fastest = min(other.pace for other in used)
        if drive.pace > fastest:
            left = outstanding / (together - drive.rate)
            if min(_LEAST_PORTION, most) * drive.pace > left:
                return 0
        fair = int(outstanding / together / 2 / drive.pace)
        return min(max(fair // ALIGNMENT * ALIGNMENT, _LEAST_PORTION), most)

    @contextmanager
    def asking(self, drive: Drive, transfer: Transfer | None) -> Iterator[None]:
        """While entered, `drive` owes an answer."""
        question = object()
        with self._lock:
            self._asked[question] = drive, transfer
        try:
            yield
        finally:
            with self._lock:
                del self._asked[question]

    def read_now(self, read: Callable[[Drive], int]) -> None:
        """Have the first drive that can `read` some bytes, of which it returns the number.

        Raises:
            ReadError: the last drive failed.
        """
        while True:
            drive = self.used[0]
            try:
                with self.asking(drive, None):
                    count = read(drive)
            except ReadError as error:
                if not self.leave_aside(drive, error):
                    raise
            else:
                with self._lock:
                    drive.bytes_read += count
                return

    def leave_aside(self, drive: Drive, error: ReadError) -> bool:
        """Ask `drive`, which failed, for nothing any more; False when no other is left."""
        with self._lock:
            others = [other for other in self.used if other is not drive]
            lost = bool(others) and drive.failure is None
            if lost:
                drive.failure = error
        if lost:
            left = " and ".join(other.path for other in others)
            with suppress(Exception):  # whoever listens must not cost a read
                self._lost(f"{drive.path} is left aside, {left} goes on: {error}")
        return bool(others)

    def leave_hanging(self, transfer: Transfer | None) -> bool:
        """Leave the drive aside that keeps `transfer` waiting; False when no other is left.

        Without a transfer, or where none of it was asked for, it is the one that was asked longest
        ago.
        """
        with self._lock:
            asked = list(self._asked.values())
        owing = [drive for drive, one in asked if one is transfer]
        if transfer is not None and any(drive.failure for drive in owing):
            return True
        suspects = [drive for drive in owing or [drive for drive, _ in asked] if not drive.failure]
        return bool(suspects) and self.leave_aside(
            suspects[0], ReadError(f"{suspects[0].path}: the drive does not answer; check it")
        )

    def is_stuck(self, transfer: Transfer) -> bool:
        """Whether a drive that was left aside owes some of it."""
        with self._lock:
            return any(
                one is transfer and drive.failure is not None for drive, one in self._asked.values()
            )
