"""What memory a process holds, looked at from outside every few milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flexinfer.bench.limits import Peak

# The kernel's stack of one thread.
_STACK = 16 << 10


def memory_of(pid: int) -> int:
    """Anonymous and kernel bytes of a process: heap, stacks, page tables.

    Source: ``/proc/PID/smaps_rollup``, which counts pages one by one, and ``/proc/PID/status``.
    """
    folder = Path("/proc") / str(pid)
    total = 0
    for line in (folder / "smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            total += int(line.split()[1]) << 10
    for line in (folder / "status").read_text().splitlines():
        if line.startswith("VmPTE:"):
            total += int(line.split()[1]) << 10
        elif line.startswith("Threads:"):
            total += int(line.split()[1]) * _STACK
    return total


@contextmanager
def sampling(pid: int, every: float = 0.01) -> Iterator[Peak]:
    """The largest `memory_of` the process that is seen until the end, which is the last look."""
    seen, over = Peak(), threading.Event()
    seen.see(memory_of(pid))

    def look() -> None:
        with suppress(OSError):  # it has just ended
            while not over.wait(every):
                seen.see(memory_of(pid))

    thread = threading.Thread(target=look, name="flexinfer-sampling", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    seen.see(memory_of(pid))
