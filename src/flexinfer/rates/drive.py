"""How fast a drive gives the bytes of a model, and how many threads it likes to be asked by.

The model's own files are read for a fraction of a second. The answer is remembered, and corrected
by what passes of large models show.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from flexinfer.awake import AwakeClock
from flexinfer.errors import ModelNotFoundError
from flexinfer.gguf.names import meant_by
from flexinfer.machine.cgroups import read_limit
from flexinfer.machine.machine import device_of
from flexinfer.memory.pages import Arena
from flexinfer.rates.cache_file import Remembered
from flexinfer.reading.drive import DEFAULT_PIECE, DEFAULT_THREADS
from flexinfer.reading.file_reader import open_reader
from flexinfer.reading.reader import Reader
from flexinfer.reading.sweep import sweep
from flexinfer.reading.waiting import Waiting

# (threads, piece): the default first; it stays unless another is clearly faster.
CANDIDATES = ((DEFAULT_THREADS, DEFAULT_PIECE), (8, 2 << 20), (16, 1 << 20))
_CLEARLY = 1.1
# The whole probe starts no read after so many seconds, and none beyond so many bytes.
_SECONDS = 0.2
_BYTES = 512 << 20
# Bytes of one transfer, and of the ring that transfers pass through.
_TRANSFER = 8 << 20
_WINDOW = 32 << 20
# Nobody waits longer than this to learn that a drive is dead.
_HANG_SECONDS = 10.0
# A smaller model says nothing about a drive, and it does not matter either.
_SMALLEST = 64 << 20
# A slow solid-state drive: what nobody measured is promised carefully.
ASSUMED_RATE = 500e6


@dataclass(frozen=True)
class DriveRate:
    """What a drive gives when `threads` reads of `piece` bytes run at a time.

    Attributes:
        rate: bytes/s.
        threads, piece: with which it gave it; pieces in bytes.
        source: "measured" now, "remembered", "limited" by the process's control group, "assumed",
            or "passes" of a large model.
        cpu: processor seconds that reading a byte takes; 0 where nobody knows.
    """

    rate: float
    threads: int
    piece: int
    source: str
    cpu: float = 0.0


class OpenReader(Protocol):
    """`open_reader`, or what a test puts in its place."""

    def __call__(
        self, paths: Sequence[str], *, threads: int | None, piece: int | None
    ) -> Reader: ...


def drive_rate(
    paths: Sequence[str],
    *,
    folder: Path | None = None,
    opener: OpenReader = open_reader,
    clock: Callable[[], float] = time.perf_counter,
) -> DriveRate:
    """The rate of the drive that holds `paths`, remembered or measured within 0.3 s.

    Args:
        paths: files of one model; the first names the drive.
        folder: where answers are kept (None: the user's cache folder). It may be read-only.

    Raises:
        ReadError: the drive failed.
        ModelNotFoundError: a file is missing.
    """
    for path in paths:
        if not os.path.isfile(path):
            raise ModelNotFoundError(f"there is no file {path}; {meant_by(path)}")
    device = device_of(paths[0])
    memory = Remembered(folder)
    limit = read_limit(device) if device else None
    found = _recall(memory, _key(paths))
    if found is None:
        found = measure(paths, opener=opener, clock=clock)
        # What was measured under a limit is not what the drive can do.
        if found.source == "measured" and limit is None:
            memory.put(_key(paths), asdict(found))
    if limit is not None and limit < found.rate:
        return replace(found, rate=float(limit), source="limited")
    return found


def remember_drive(paths: Sequence[str], found: DriveRate, *, folder: Path | None = None) -> None:
    """Let passes correct what a probe of a fraction of a second said, for whoever asks next.

    Not under a limit of the process's control group, which says nothing about the drive.
    """
    device = device_of(paths[0])
    if device is None or read_limit(device) is None:
        Remembered(folder).put(_key(paths), asdict(found))


def _key(paths: Sequence[str]) -> str:
    """Of the drive, in what is remembered."""
    return f"{device_of(paths[0])} {os.stat(paths[0]).st_dev}"


def _recall(memory: Remembered, key: str) -> DriveRate | None:
    entry = memory.get(key) or {}
    with suppress(TypeError, ValueError, KeyError):
        rate, threads, piece = float(entry["rate"]), int(entry["threads"]), int(entry["piece"])
        cpu = float(entry["cpu"])
        if 0 < rate < math.inf and 0 <= cpu < math.inf and (threads, piece) in CANDIDATES:
            return DriveRate(rate, threads, piece, "remembered", cpu)
    return None


def measure(
    paths: Sequence[str],
    *,
    opener: OpenReader = open_reader,
    clock: Callable[[], float] = time.perf_counter,
) -> DriveRate:
    """Read up to 512 MiB at spread offsets with each candidate in turn; the best one.

    A model below 64 MiB is not read, nor is one with holes, which come from no drive: the answer is
    the default with an assumed rate.
    """
    sizes = [os.path.getsize(path) for path in paths]
    file = sizes.index(max(sizes))
    if sizes[file] < _SMALLEST or _has_holes(paths[file]):
        return DriveRate(ASSUMED_RATE, DEFAULT_THREADS, DEFAULT_PIECE, "assumed")
    best: DriveRate | None = None
    arena = Arena(_WINDOW)
    arena.view(0, _WINDOW)[:] = bytes(_WINDOW)  # the first touch is no part of the rate
    try:
        for threads, piece in CANDIDATES:
            reader = opener(paths, threads=threads, piece=piece)
            try:
                rate = _rate(reader, arena, file, sizes[file], clock)
                cpu = sum(use.cpu_s for use in reader.drives) / max(reader.bytes_read, 1)
            finally:
                reader.close()
            if best is None or rate > best.rate * _CLEARLY:
                best = DriveRate(rate, threads, piece, "measured", cpu)
    finally:
        arena.close()
    assert best is not None
    return best


def _has_holes(path: str) -> bool:
    """Half of the file takes no room on the drive: never written, or compressed away."""
    stat = os.stat(path)
    return stat.st_blocks * 512 < stat.st_size // 2


def _rate(reader: Reader, arena: Arena, file: int, size: int, clock: Callable[[], float]) -> float:
    """Bytes/s of transfers in random order; none is read twice."""
    awake = AwakeClock(clock)
    starts = list(range(0, size - _TRANSFER + 1, _TRANSFER))
    random.shuffle(starts)
    began = awake()
    some = starts[: _BYTES // len(CANDIDATES) // _TRANSFER]
    in_time = takewhile(lambda _: awake() - began <= _SECONDS / len(CANDIDATES), some)
    ranges = ((file, start, _TRANSFER) for start in in_time)
    waiting = Waiting(hang_s=_HANG_SECONDS, clock=lambda: awake)
    total = sweep(reader, arena, ranges, _TRANSFER, waiting)
    return total / max(awake() - began, 1e-9)
