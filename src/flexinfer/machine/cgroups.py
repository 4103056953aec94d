"""Control groups, v1 and v2: where this process is and what its groups allow.

File names and meanings: ``Documentation/admin-guide/cgroup-v1/`` and ``cgroup-v2.rst`` of Linux.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")
# A v1 group without a limit says about 2**63.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Group:
    """One folder of a hierarchy; `root` is where that hierarchy is mounted."""

    path: Path
    root: Path
    version: int

    @property
    def parents(self) -> Iterator[Group]:
        """This group and those above it, as far as this process sees them."""
        path = self.path
        while True:
            yield Group(path, self.root, self.version)
            if path == self.root:
                return
            path = path.parent

    def text(self, name: str) -> str:
        """A file of the group; empty where there is none."""
        try:
            return (self.path / name).read_text()
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        """A file with one number; None where there is none, or no limit."""
        text = self.text(name).strip()
        if not text.lstrip("-").isdigit():
            return None
        value = int(text)
        return value if 0 <= value < _NO_LIMIT else None

    def table(self, name: str) -> dict[str, int]:
        """A file of names and numbers."""
        rows = (line.split() for line in self.text(name).splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


@dataclass(frozen=True)
class MemoryLimit:
    """The group that leaves this process the least room, in bytes.

    Attributes:
        limit: what the group may use.
        used: what it uses; page cache does not count, as it goes when room is needed.
        swap: what it may swap; None without a limit.
    """

    limit: int
    used: int
    swap: int | None

    @property
    def room(self) -> int:
        return max(self.limit - self.used, 0)


def own_group(controller: str, proc: Path = PROC, sys: Path = SYS) -> Group | None:
    """The group of this process that controls `controller` ("memory", "cpu", "blkio" or "io")."""
    v1 = {"io": "blkio"}.get(controller, controller)
    v2 = {"blkio": "io"}.get(controller, controller)
    unified: Group | None = None
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if v1 in controllers.split(","):
            return _locate(1, v1, path, proc, sys)
        if not controllers:
            unified = _locate(2, "", path, proc, sys)
    if unified and v2 in (unified.root / "cgroup.controllers").read_text().split():
        return unified
    return None


def memory_limit(proc: Path = PROC, sys: Path = SYS) -> MemoryLimit | None:
    """What binds this process's memory; None without a limit."""
    own = own_group("memory", proc, sys)
    limits = [_memory_limit(group) for group in own.parents] if own else []
    return min((limit for limit in limits if limit), key=lambda limit: limit.room, default=None)


def cpu_limit(proc: Path = PROC, sys: Path = SYS) -> float | None:
    """Processors' worth of time this process may use; None without a limit."""
    own = own_group("cpu", proc, sys)
    limits = [_cpu_limit(group) for group in own.parents] if own else []
    return min((limit for limit in limits if limit), default=None)


def read_limit(device: tuple[int, int], proc: Path = PROC, sys: Path = SYS) -> int | None:
    """Bytes/s that this process may read from a drive; None without a limit."""
    own = own_group("blkio", proc, sys)
    limits = [_read_limit(group, device) for group in own.parents] if own else []
    return min((limit for limit in limits if limit), default=None)


def _memory_limit(group: Group) -> MemoryLimit | None:
    if group.version == 1:
        limit = group.number("memory.limit_in_bytes")
        used = group.number("memory.usage_in_bytes")
        both = group.number("memory.memsw.limit_in_bytes")
        swap = None if limit is None or both is None else both - limit
    else:
        # Above `high` the group is slowed down until it is of no use.
        limits = [group.number("memory.max"), group.number("memory.high")]
        limit = min((each for each in limits if each is not None), default=None)
        used, swap = group.number("memory.current"), group.number("memory.swap.max")
    if limit is None or used is None:
        return None
    stat = group.table("memory.stat")
    prefix = "total_" if group.version == 1 else ""
    cache = sum(stat.get(f"{prefix}{name}", 0) for name in ("active_file", "inactive_file"))
    return MemoryLimit(limit, max(used - cache, 0), swap)


def _cpu_limit(group: Group) -> float | None:
    if group.version == 1:
        quota, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
        return quota / period if quota and period else None
    words = group.text("cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _read_limit(group: Group, device: tuple[int, int]) -> int | None:
    name = "blkio.throttle.read_bps_device" if group.version == 1 else "io.max"
    for line in group.text(name).splitlines():
        number, *values = line.split()
        if number != f"{device[0]}:{device[1]}":
            continue
        for value in values:
            digits = value if group.version == 1 else value.removeprefix("rbps=")
            if digits.isdigit():
                return int(digits)
    return None


def _locate(version: int, controller: str, path: str, proc: Path, sys: Path) -> Group | None:
    """The folder of group `path`, below the place where its hierarchy is mounted.

    A container may see a mount of its own group only: then the mount's root is cut off, or the
    group's path means nothing here and the mount itself is the group.
    """
    for line in _lines(proc / "self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind != ("cgroup" if version == 1 else "cgroup2"):
            continue
        if version == 1 and controller not in options.split()[-1].split(","):
            continue
        inside, mounted = fields.split()[3:5]
        root = sys / mounted.removeprefix("/sys/")
        if inside != "/" and (path == inside or path.startswith(inside + "/")):
            path = path[len(inside) :]
        group = root / path.lstrip("/")
        visible = ".." not in path.split("/") and group.is_dir()
        return Group(group if visible else root, root, version)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
