"""What the reader alone reaches: GB/s and processor seconds per GB, nothing computed beside it.

    python benchmarks/reader.py FILE [--threads 1,2,4] [--piece 512K,1M,2M] [--rounds 5]
    python benchmarks/reader.py --memory 2G     # a file in /dev/shm: the ceiling without a drive

Transfers of `--transfer` bytes pass through a ring of `--window` bytes, as they do while a model
streams. Printed first: the same calls (preadv into the same memory) by one thread without the
reader. Opening the file and the first touch of the memory are outside the timing window. The
combinations of one round run one after the other; median and spread are over rounds. With
`--busy`, a second thread computes in Python beside the reader, which is its worst neighbour; its
processor time is in the last column.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexinfer.memory.pages import Arena
from flexinfer.reading.file_reader import FileReader, open_reader
from flexinfer.reading.open_file import OpenFile
from flexinfer.reading.sweep import sweep
from flexinfer.sizes import ALIGNMENT, parse_size


def stream(reader: FileReader, arena: Arena, size: int, transfer: int, limit: int) -> int:
    """Read up to `limit` bytes of the first file through the arena, as a ring."""
    starts = range(0, min(size, limit) - transfer + 1, transfer)
    return sweep(reader, arena, ((0, start, transfer) for start in starts), transfer)


def plain(path: str, arena: Arena, piece: int, limit: int) -> int:
    """The same bytes by one thread that does nothing else."""
    file = OpenFile(path)
    total = 0
    places = arena.nbytes // piece
    for index, start in enumerate(range(0, min(file.size, limit) - piece + 1, piece)):
        total += file.read(start, arena.view(index % places * piece, piece), piece)
    file.close()
    return total


@contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """A thread that computes in Python all the time."""
    stop = threading.Event()

    def work() -> None:
        count = 0
        while not stop.is_set():
            for _ in range(10_000):
                count += 1

    thread = threading.Thread(target=work, daemon=True)
    if wanted:
        thread.start()
    yield
    stop.set()
    if wanted:
        thread.join()


class Clock:
    """Wall and processor seconds of a block."""

    def __enter__(self) -> Clock:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self.wall
        self.cpu = time.process_time() - self.cpu


def show(name: str, results: list[tuple[float, float]]) -> None:
    rates = [rate for rate, _ in results]
    cpu = statistics.median(cpu for _, cpu in results)
    print(
        f"{name:>24}  {statistics.median(rates):6.2f} GB/s"
        f"  ({min(rates):5.2f} to {max(rates):5.2f})  {cpu:6.3f} cpu s/GB"
    )


def measure(path: str, options: argparse.Namespace) -> None:
    arena = Arena(parse_size(options.window))
    memory = arena.view(0, arena.nbytes)
    for at in range(0, arena.nbytes, ALIGNMENT):
        memory[at] = 0
    limit = parse_size(options.limit)
    transfer = parse_size(options.transfer)
    pieces = [parse_size(piece) for piece in options.piece.split(",")]
    threads = [int(count) for count in options.threads.split(",")]
    results: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        with Clock() as clock:
            total = plain(path, arena, pieces[-1], limit)
        keep(results, f"one thread x {pieces[-1] >> 10} KiB", total, clock)
        for count in threads:
            for piece in pieces:
                reader = open_reader([path], threads=count, piece=piece)
                with neighbour(options.busy), Clock() as clock:
                    total = stream(reader, arena, os.path.getsize(path), transfer, limit)
                reader.close()
                keep(results, f"{count} x {piece >> 10} KiB", total, clock)
    for name, rows in results.items():
        show(name, rows)


def keep(
    results: dict[str, list[tuple[float, float]]], name: str, total: int, clock: Clock
) -> None:
    results.setdefault(name, []).append((total / clock.wall / 1e9, clock.cpu / total * 1e9))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--memory", help="size of a file to make in /dev/shm and read")
    parser.add_argument("--threads", default="1,2,4,8")
    parser.add_argument("--piece", default="256K,512K,1M,2M,4M")
    parser.add_argument("--transfer", default="8M")
    parser.add_argument("--window", default="128M")
    parser.add_argument("--limit", default="1G", help="bytes read each time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--switch", type=float, default=5e-3, help="switch interval, seconds")
    options = parser.parse_args()
    sys.setswitchinterval(options.switch)
    if options.file:
        measure(options.file, options)
        return 0
    if not options.memory:
        parser.error("name a file or --memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "bytes"
        with path.open("wb") as file:
            for _ in range(parse_size(options.memory) >> 20):
                file.write(os.urandom(1 << 20))
        measure(str(path), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
