"""What this machine offers: cores, memory, limits. Linux; all roots can be replaced by tests.

Numbers hold inside containers too: the tightest group of the cgroup hierarchy (v1 or v2) and the
processors that this process may really use.
"""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

from flexinfer.machine.cgroups import PROC, SYS, cpu_limit, memory_limit
from flexinfer.machine.process_limits import process_limit

_KERNEL_STACK = 16 << 10
_CAP_IPC_LOCK = 1 << 14
# Left to the rest of the system, where it shares the machine's memory.
_SYSTEM_MARGIN = 256 << 20
# In a group that is ours, only what we cannot count: kernel memory of reads under way, for one.
_GROUP_MARGIN = 32 << 20
# Of little memory a margin takes no more than a part.
_SYSTEM_PART, _GROUP_PART = 4, 16


@dataclass(frozen=True)
class Machine:
    """One look at the machine; sizes in bytes, None where there is no limit. All plain data.

    Attributes:
        cores: physical cores this process may use.
        memory_total: of the machine.
        memory_available: what new work could have, in the kernel's estimate.
        swap_total: of the machine.
        cgroup_limit: what the group may use that leaves this process the least room.
        cgroup_used: what that group uses, page cache not counted.
        cgroup_swap: what it may swap.
        memlock: how much may be locked with mlock.
        huge_pages: mode of transparent huge pages ("always", "madvise", "never", "none").
        kernel: release of the kernel.
        pressure: whether the kernel reports memory pressure (PSI).
        process: anonymous and kernel bytes of this process when it looked.
        ulimit: what `ulimit -v` or `-d` lets this process map besides what it has.
        ulimit_option: "-v" or "-d", whichever that is.
        core_limit: what keeps `cores` below the machine's: "group", "affinity" or "" for nothing.
        contained: its settings are the host's to change: /sys cannot be written.
    """

    cores: int
    memory_total: int
    memory_available: int
    swap_total: int
    cgroup_limit: int | None
    cgroup_used: int | None
    memlock: int | None
    huge_pages: str
    cgroup_swap: int | None = None
    kernel: str = ""
    pressure: bool = False
    process: int = 0
    ulimit: int | None = None
    ulimit_option: str = ""
    core_limit: str = ""
    contained: bool = False

    @classmethod
    def detect(cls, proc: Path = PROC, sys: Path = SYS) -> Machine:
        memory = _sizes(proc / "meminfo")
        group = memory_limit(proc, sys)
        own = process_limit(proc)
        processors = os.sched_getaffinity(0)
        return cls(
            cores=usable_cores(processors, proc, sys),
            memory_total=memory.get("MemTotal", 0),
            memory_available=memory.get("MemAvailable", 0),
            swap_total=memory.get("SwapTotal", 0),
            cgroup_limit=group.limit if group else None,
            cgroup_used=group.used if group else None,
            memlock=_memlock(proc),
            huge_pages=_huge_pages(sys),
            cgroup_swap=group.swap if group else None,
            kernel=platform.release(),
            pressure=(proc / "pressure/memory").exists(),
            process=process_memory(proc),
            ulimit=own.room if own else None,
            ulimit_option=own.option if own else "",
            core_limit=_core_limit(processors, proc, sys),
            contained=_is_read_only(sys),
        )

    @property
    def ceiling(self) -> int:
        """What this whole process could use at the very most, in bytes."""
        return max(min(room for room, _ in self._rooms.values()), 0)

    @property
    def memory_existing(self) -> int:
        """What there is for this process and its like: the group's memory, or the machine's."""
        limits = (self.memory_total, self.cgroup_limit)
        return min(limit for limit in limits if limit is not None)

    @property
    def binding(self) -> str:
        """What makes the default budget no larger: "machine", "group" or "ulimit"."""
        rooms = self._rooms
        return min(rooms, key=lambda name: rooms[name][0] - rooms[name][1])

    @property
    def swaps(self) -> bool:
        """Memory of this process may be swapped out, unless it is locked."""
        inside = self.cgroup_swap if self.cgroup_limit is not None else self.swap_total
        return bool(self.swap_total) and inside != 0

    @property
    def others(self) -> int:
        """Bytes that other processes of the tightest group hold."""
        return max((self.cgroup_used or 0) - self.process, 0)

    @property
    def default_budget(self) -> int:
        """What this whole process may use: what is really available, less a margin."""
        return max(min(room - margin for room, margin in self._rooms.values()), 0)

    @property
    def _rooms(self) -> dict[str, tuple[int, int]]:
        """What each limit leaves this whole process, and what a default stays below it."""
        available = self.memory_available + self.process
        rooms = {"machine": (available, _margin(available, _SYSTEM_MARGIN, _SYSTEM_PART))}
        if self.cgroup_limit is not None:
            room = self.cgroup_limit - self.others
            rooms["group"] = (room, _margin(room, _GROUP_MARGIN, _GROUP_PART))
        if self.ulimit is not None:
            room = self.ulimit + self.process
            rooms["ulimit"] = (room, _margin(room, _GROUP_MARGIN, _GROUP_PART))
        return rooms


def _margin(room: int, usual: int, part: int) -> int:
    return max(room // 20, min(usual, room // part))


def process_memory(proc: Path = PROC) -> int:
    """Anonymous and kernel bytes of this process: heap, stacks, page tables. Takes 50 us.

    Source: ``/proc/self/status``; kernel stacks at 16 KiB a thread.
    """
    total = 0
    with open(proc / "self/status", "rb") as status:
        for line in status:
            if line.startswith((b"RssAnon:", b"RssShmem:", b"VmPTE:")):
                total += int(line.split()[1]) << 10
            elif line.startswith(b"Threads:"):
                return total + int(line.split()[1]) * _KERNEL_STACK
    return total


def usable_cores(processors: set[int], proc: Path = PROC, sys: Path = SYS) -> int:
    """Physical cores behind `processors`, as many as the group's processor time feeds."""
    cores = set()
    for cpu in processors:
        topology = sys / f"devices/system/cpu/cpu{cpu}/topology"
        try:
            package = (topology / "physical_package_id").read_text()
            cores.add((package, (topology / "core_id").read_text()))
        except OSError:
            cores.add(("", str(cpu)))
    quota = cpu_limit(proc, sys)
    # Threads that wait for each other lose more to being stopped than a part of a core gives.
    return max(len(cores) if quota is None else min(len(cores), int(quota)), 1)


def fills_processors(threads: int) -> bool:
    """Whether so many threads that compute leave no processor to others."""
    return threads >= len(os.sched_getaffinity(0))


def _core_limit(processors: set[int], proc: Path, sys: Path) -> str:
    quota = cpu_limit(proc, sys)
    if quota is not None and int(quota) < len(processors):
        return "group"
    return "affinity" if len(processors) < (os.cpu_count() or 1) else ""


def device_of(path: str | os.PathLike[str], sys: Path = SYS) -> tuple[int, int] | None:
    """Major and minor number of the whole drive that holds a file.

    None where it is on no drive: memory, network, or a file system of several devices.
    """
    number = os.stat(path).st_dev
    device = sys / f"dev/block/{os.major(number)}:{os.minor(number)}"
    if not device.exists():
        return None
    if (device / "partition").exists():
        device = device.resolve().parent
    major, minor = (device / "dev").read_text().strip().split(":")
    return int(major), int(minor)


def _sizes(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows if row[2:] == ["kB"]}


def _memlock(proc: Path) -> int | None:
    for line in (proc / "self/status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) & _CAP_IPC_LOCK:
            return None
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def _is_read_only(folder: Path) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _huge_pages(sys: Path) -> str:
    try:
        text = (sys / "kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "none"
    return text.partition("[")[2].partition("]")[0] or "none"
