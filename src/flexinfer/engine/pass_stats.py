"""What passes came to: seconds, bytes, counts."""

from __future__ import annotations

from dataclasses import dataclass

from flexinfer.planning.sums import Sums


@dataclass(frozen=True)
class PassStats(Sums):
    """Sums over passes that succeeded: seconds, bytes, counts.

    Attributes:
        compute_s: neither waiting nor between passes.
        wait_s: waiting for the drive.
        idle_s: in which no read was under way.
        read_bytes: from the drive.
        away_s: in which other devices computed, as far as nothing here did.
        tokens: rows of all batches.
        packing_s: of `compute_s`, in which what had arrived was packed.
    """

    passes: int = 0
    segments: int = 0
    compute_s: float = 0.0
    wait_s: float = 0.0
    idle_s: float = 0.0
    read_bytes: int = 0
    away_s: float = 0.0
    tokens: int = 0
    packing_s: float = 0.0
