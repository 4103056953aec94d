"""Processor time that processes take, counted by the kernel, as a share of the machine's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
# Numbers of fields of /proc/PID/stat behind the name (proc(5)).
_PARENT, _USER, _CHILDREN_SYSTEM = 1, 11, 14


def seconds_of(pids: Iterable[int]) -> float:
    """User and system time so far, with that of children that have ended and were waited for."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, _fields(pid)[_USER : _CHILDREN_SYSTEM + 1]))
    return ticks / os.sysconf("SC_CLK_TCK")


def share(pids: Callable[[], Iterable[int]], seconds: float) -> float:
    """What processes take within so long, over what the processors have that this one may use."""
    before = seconds_of(pids())
    time.sleep(seconds)
    return (seconds_of(pids()) - before) / seconds / len(os.sched_getaffinity(0))


def below(pid: int, program: str) -> list[int]:
    """Processes that descend from `pid` and run a program with these letters in its path."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        with suppress(OSError, ValueError):
            children.setdefault(int(_fields(int(entry.name))[_PARENT]), []).append(int(entry.name))
    found, left = [], children.get(pid, [])
    while left:
        one = left.pop()
        left += children.get(one, [])
        with suppress(OSError):
            if program in os.readlink(_PROC / str(one) / "exe"):
                found.append(one)
    return found


def _fields(pid: int) -> list[str]:
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
