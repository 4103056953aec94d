"""One load of a stream: where its bytes are or will be, and what giving it up gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flexinfer.reading.reader import Transfer
from flexinfer.seam import Part


@dataclass
class Entry:
    """One load under way or in memory; `transfer` is None when it was there already.

    `place` says what giving it up gives back: a place in the ring, a locked place, or nothing.
    """

    part: Part
    address: int
    transfer: Transfer | None
    place: Literal["ring", "locked", "none"]

    @property
    def under_way(self) -> bool:
        """Whether somebody may still write to it."""
        return self.transfer is not None and not self.transfer.done

    @property
    def is_there(self) -> bool:
        """Whether all of it has arrived."""
        transfer = self.transfer
        return transfer is None or (transfer.done and transfer.error is None)
