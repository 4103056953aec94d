"""What `ulimit` lets this process hold, in bytes of its own memory.

Address space (``-v``) counts what is mapped, touched or not; data (``-d``) what is private and
writable. What is mapped and untouched is no use to a budget, so both are brought down to memory.
Source: getrlimit(2); VmSize and VmData of ``/proc/self/status``.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from flexinfer.machine.cgroups import PROC

_LIMITS = {"-v": (resource.RLIMIT_AS, "VmSize"), "-d": (resource.RLIMIT_DATA, "VmData")}


@dataclass(frozen=True)
class ProcessLimit:
    """The limit that leaves this process the least room.

    Attributes:
        option: of `ulimit`: "-v" or "-d".
        limit: what may be mapped, in bytes.
        room: what of it is left, in bytes.
    """

    option: str
    limit: int
    room: int


def process_limit(proc: Path = PROC) -> ProcessLimit | None:
    """What binds this process; None without a limit."""
    mapped = _mapped(proc)
    found = []
    for option, (number, name) in _LIMITS.items():
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            found.append(ProcessLimit(option, soft, max(soft - mapped.get(name, 0), 0)))
    return min(found, key=lambda limit: limit.room, default=None)


def _mapped(proc: Path) -> dict[str, int]:
    rows = (line.split() for line in (proc / "self/status").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows if row[2:] == ["kB"]}
