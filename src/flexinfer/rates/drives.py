"""The drives with copies of one model, and what they give together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.mirrors import Mirror
from flexinfer.machine.machine import device_of
from flexinfer.planning.plan import Costs, CostsOf
from flexinfer.planning.rates import DriveShare
from flexinfer.rates.drive import ASSUMED_RATE, DriveRate, drive_rate, remember_drive
from flexinfer.reading.drive import DEFAULT_PIECE, DEFAULT_THREADS
from flexinfer.reading.reader import DriveUse

# What a drive beside the first takes: the stacks of its threads, of which there are twice as many
# where they also pack, and a place for small reads.
_THREAD_BYTES = 2 * 64 << 10
_BOUNCE_BYTES = 256 << 10


@dataclass(frozen=True)
class Copy:
    """A copy of the model, with the rate of its drive; copies on one drive share its rate."""

    paths: tuple[str, ...]
    rate: DriveRate


@dataclass(frozen=True)
class CopyRates:
    """All copies of a model that are read; its own files are the first, if they are among them.

    Where there are `packed` copies weights are read from those alone. Other bytes than theirs are
    read from the `plain` files of the model.
    """

    copies: tuple[Copy, ...]
    packed: tuple[Mirror, ...] = ()
    plain: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Bytes/s of all drives together."""
        return sum(copy.rate.rate for copy in self.copies)

    @property
    def cpu(self) -> float:
        """Processor seconds that reading a byte takes, of which each drive gives its share."""
        return sum(copy.rate.rate * copy.rate.cpu for copy in self.copies) / self.rate

    @property
    def shares(self) -> tuple[DriveShare, ...]:
        """Of each drive, where there are several."""
        if len(self.copies) == 1:
            return ()
        return tuple(DriveShare(copy.paths[0], copy.rate.rate) for copy in self.copies)

    @property
    def overhead(self) -> int:
        """Bytes that the reading of the mirrors takes."""
        mirrors = self.copies[1:]
        return sum(copy.rate.threads * _THREAD_BYTES + _BOUNCE_BYTES for copy in mirrors)

    def costing(self, costs: CostsOf) -> CostsOf:
        """The same costs with that overhead."""

        def more(ctx: int, ubatch: int) -> Costs:
            least = costs(ctx, ubatch)
            return replace(least, overhead=least.overhead + self.overhead)

        return more

    def remember(self, rate: float, uses: Sequence[DriveUse]) -> None:
        """Keep what passes showed all drives to give: each has given its share of the bytes."""
        total = sum(use.bytes_read for use in uses)
        if not total or len(uses) != len(self.copies) or any(use.failure for use in uses):
            return
        given: Counter[object] = Counter()
        for copy, use in zip(self.copies, uses, strict=True):
            given[_drive(copy.paths)] += use.bytes_read
        for copy in self.copies:
            own = rate * given[_drive(copy.paths)] / total
            if own:
                remember_drive(copy.paths, replace(copy.rate, rate=own, source="passes"))


def drives_for(catalogue: Catalogue, mirrors: Sequence[Mirror] = ()) -> CopyRates:
    """The rates of the drives that hold the model and its mirrors, or its packed copies.

    Assumed for a model that is not on this machine.
    """
    if not all(os.path.exists(path) for path in catalogue.paths):
        assumed = DriveRate(ASSUMED_RATE, DEFAULT_THREADS, DEFAULT_PIECE, "assumed")
        return CopyRates((Copy(catalogue.paths, assumed),))
    copies = tuple(mirror.paths for mirror in mirrors)
    packed = tuple(mirror for mirror in mirrors if mirror.packed)
    places = copies if packed else (catalogue.paths, *copies)
    sharing = Counter(_drive(paths) for paths in places)
    found = []
    for paths in places:
        rate = drive_rate(paths)
        found.append(Copy(paths, replace(rate, rate=rate.rate / sharing[_drive(paths)])))
    return CopyRates(tuple(found), packed, catalogue.paths if packed else ())


def _drive(paths: Sequence[str]) -> object:
    """The drive, or what stands for one, that holds the first of the files."""
    return device_of(paths[0]) or os.stat(paths[0]).st_dev
