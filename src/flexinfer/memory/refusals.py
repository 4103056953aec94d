"""Why the system refuses memory: a limit on this process, one of its own, or none is left."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

from flexinfer.errors import BudgetError
from flexinfer.sizes import format_size

PROC = Path("/proc")
# What each limit of `ulimit` is held against, of /proc/self/status.
_LIMITS = {"-v": (resource.RLIMIT_AS, "VmSize"), "-d": (resource.RLIMIT_DATA, "VmData")}
# What a thread's stack takes of the address space, as ulimit -s has it by default.
_STACK = 8 << 20
_NEVER_MORE_THAN_THERE_IS = "2"


def refused(what: str, nbytes: int, proc: Path = PROC) -> BudgetError:
    """The error for `nbytes` that were refused: what for, by which limit, and what to do."""
    return BudgetError(f"{what} needs {format_size(nbytes)} but {_reason(nbytes, proc)}")


def refused_to_library(what: str, proc: Path = PROC) -> BudgetError:
    """The error where somebody else's code was refused memory, and did not say how much."""
    return BudgetError(f"{what}: it was refused memory, as {_reason(None, proc)}")


def start_thread(thread: threading.Thread, proc: Path = PROC) -> None:
    """Start `thread`.

    Raises:
        BudgetError: the system has no stack or no number left for one.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise BudgetError(
            f"the thread {thread.name} cannot be started: {_reason(_STACK, proc)}; or more threads "
            "and processes run than ulimit -u or the group's pids.max allows"
        ) from error


def _reason(nbytes: int | None, proc: Path) -> str:
    mapped = _mapped(proc)
    for option, (number, name) in _LIMITS.items():
        limit, _ = resource.getrlimit(number)
        have = mapped.get(name, 0)
        if limit != resource.RLIM_INFINITY and (nbytes is None or have + nbytes > limit):
            return (
                f"ulimit {option} lets this process map {format_size(limit)}, of which it has "
                f"{format_size(have)}: raise it with ulimit {option} unlimited"
            )
    if _read(proc / "sys/vm/overcommit_memory") == _NEVER_MORE_THAN_THERE_IS:
        return (
            "the system promises no more than it has (vm.overcommit_memory is 2): give a smaller "
            "memory budget, or set it to 0"
        )
    return "the system has no more; give a smaller memory budget"


def _mapped(proc: Path) -> dict[str, int]:
    rows = (line.split() for line in _read(proc / "self/status").splitlines())
    return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows if row[2:] == ["kB"]}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
