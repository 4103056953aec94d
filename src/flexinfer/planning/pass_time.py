"""How long a pass takes: what is read, packed and computed, and what these cost each other."""

from __future__ import annotations

from dataclasses import dataclass

# Of the time in which a pass computes, so much is lost to reading beside it where it reads longer:
# 7 to 23 % at three budgets of a 7B model on two cores, which share one memory.
_LOST_BESIDE = 0.15


@dataclass(frozen=True)
class PassTime:
    """The work of one pass, in seconds that each part of it takes alone.

    Attributes:
        compute: of the processors, with all weights in memory.
        read: of the drive.
        pack: of the processors, for packing what is read.
        ask: of the processors, for reading: what its system calls take from those who compute.
        ahead: False: nothing is read while something is computed.
    """

    compute: float
    read: float
    pack: float = 0.0
    ask: float = 0.0
    ahead: bool = True

    @property
    def least(self) -> float:
        """Seconds that no schedule undercuts: the longer of drive and processors."""
        busy = self.compute + self.pack
        return max(busy, self.read) if self.ahead else busy + self.read

    @property
    def busy(self) -> float:
        """Seconds of the processors, whatever they do."""
        return self.compute + self.pack + self.ask

    @property
    def expected(self) -> float:
        """`least`, with what reading and computing cost each other.

        Where the processors are busy all the time, what reading asks of them comes on top; where
        the drive is, that passes while they wait for it, but reads go slower while they compute.
        """
        if not self.ahead or not self.read:
            return self.least
        return max(self.busy, self.read + _LOST_BESIDE * self.compute)
