"""What this machine offers: cores, memory, limits. Linux only; all roots can be replaced by tests.

Numbers hold inside containers too: the smallest memory limit of the cgroup hierarchy (v1 or v2)
and the processors this process may run on.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")
# A v1 group without a limit says about 2**63.
_NO_LIMIT = 1 << 60
_KERNEL_STACK = 16 << 10


@dataclass(frozen=True)
class Machine:
    """One look at the machine; sizes in bytes, None where there is no limit.

    Attributes:
        cores: physical cores this process may use.
        cgroup_limit: the smallest memory limit of the groups this process is in.
        cgroup_used: what that group uses, page cache that can go not counted.
        memlock: how much may be locked with mlock.
        huge_pages: mode of transparent huge pages.
    """

    cores: int
    memory_total: int
    memory_available: int
    swap_total: int
    cgroup_limit: int | None
    cgroup_used: int | None
    memlock: int | None
    huge_pages: str

    @classmethod
    def detect(cls, proc: Path = PROC, sys: Path = SYS) -> Machine:
        memory = _meminfo(proc)
        limit, used = _cgroup_memory(proc, sys)
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return cls(
            cores=_physical_cores(sys),
            memory_total=memory.get("MemTotal", 0),
            memory_available=memory.get("MemAvailable", 0),
            swap_total=memory.get("SwapTotal", 0),
            cgroup_limit=limit,
            cgroup_used=used,
            memlock=None if soft == resource.RLIM_INFINITY else soft,
            huge_pages=_huge_pages(sys),
        )

    @property
    def default_budget(self) -> int:
        """What is really available to this process, less a margin for the rest of the system."""
        available = self.memory_available + process_memory()
        if self.cgroup_limit is not None:
            others = max((self.cgroup_used or 0) - process_memory(), 0)
            available = min(available, self.cgroup_limit - others)
        return max(available - max(available // 20, 64 << 20), 0)


def process_memory(proc: Path = PROC) -> int:
    """Anonymous and kernel bytes of this process: heap, stacks, page tables.

    Source: ``/proc/self/status``; kernel stacks at 16 KiB a thread.
    """
    wanted = {"RssAnon", "RssShmem", "VmPTE"}
    total = 0
    threads = threading.active_count()
    for line in (proc / "self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in wanted:
            total += int(value.split()[0]) << 10
        elif name == "Threads":
            threads = int(value)
    return total + threads * _KERNEL_STACK


def _meminfo(proc: Path) -> dict[str, int]:
    entries = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        entries[name] = int(value.split()[0]) << 10
    return entries


def _physical_cores(sys: Path) -> int:
    """Cores behind the processors this process may run on, two hyperthreads counted once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = sys / f"devices/system/cpu/cpu{cpu}/topology"
        try:
            package = (topology / "physical_package_id").read_text()
            cores.add((package, (topology / "core_id").read_text()))
        except OSError:
            cores.add(("", str(cpu)))
    return max(len(cores), 1)


def _huge_pages(sys: Path) -> str:
    try:
        text = (sys / "kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "none"
    return text.partition("[")[2].partition("]")[0] or "none"


def _cgroup_memory(proc: Path, sys: Path) -> tuple[int | None, int | None]:
    """The smallest limit on this process's way to the root, and what that group uses."""
    smallest: tuple[int, int] | None = None
    for group, names in _memory_groups(proc, sys):
        limit, used = _number(group / names[0]), _number(group / names[1])
        if limit is None or limit >= _NO_LIMIT or used is None:
            continue
        used -= _reclaimable(group / "memory.stat")
        if smallest is None or limit < smallest[0]:
            smallest = (limit, max(used, 0))
    return smallest or (None, None)


def _memory_groups(proc: Path, sys: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = sys / "fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = sys / "fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = root / path.lstrip("/")
        while True:
            yield group, names
            if group == root or root not in group.parents:
                break
            group = group.parent


def _reclaimable(stat: Path) -> int:
    entries = dict(line.split() for line in _lines(stat))
    cached = entries.get("total_inactive_file") or entries.get("inactive_file") or "0"
    return int(cached)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
