"""A control group of our own, to run something under a limit of memory or of the drive's rate.

    with limited(memory=600 << 20, read_bps={(254, 0): 500_000_000}) as group:
        process = subprocess.Popen(command, preexec_fn=group.join)
        with group.watch() as seen:
            process.wait()
        assert group.oom_kills == 0 and seen.peak <= 600 << 20

Needs the right to write to the cgroup file system, which root has in most containers and a user
has below a delegated group.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flexinfer.errors import UnsupportedError
from flexinfer.machine.cgroups import PROC, SYS, Group, own_group

_REMOVE_SECONDS = 2.0
_numbers = itertools.count()


class Peak:
    """The largest `usage` that a watch saw, in bytes, and how many samples were beyond `limit`."""

    def __init__(self, limit: int | None = None) -> None:
        self.peak = 0
        self.samples = 0
        self.over = 0
        self._limit = limit

    def __repr__(self) -> str:
        return f"<Peak {self.peak} bytes in {self.samples} samples>"

    def see(self, usage: int) -> None:
        self.peak = max(self.peak, usage)
        self.samples += 1
        self.over += self._limit is not None and usage > self._limit


class LimitedGroup:
    """Folders of a group that `limited` made, one for each hierarchy it needs."""

    def __init__(self, memory: Group, others: Sequence[Group] = ()) -> None:
        self.memory = memory
        self.folders = tuple(dict.fromkeys([memory, *others]))

    def __repr__(self) -> str:
        return f"<LimitedGroup {self.memory.path} v{self.memory.version}>"

    def add(self, pid: int) -> None:
        """Move a process in, with all its threads; its children follow."""
        for folder in self.folders:
            _write(folder, "cgroup.procs", str(pid))

    def join(self) -> None:
        """Move the calling process in; suits ``preexec_fn``."""
        self.add(os.getpid())

    @property
    def usage(self) -> int:
        """Anonymous plus kernel bytes now."""
        if self.memory.version == 1:
            kernel = self.memory.number("memory.kmem.usage_in_bytes") or 0
            return self.memory.table("memory.stat").get("rss", 0) + kernel
        table = self.memory.table("memory.stat")
        return table.get("anon", 0) + table.get("kernel", 0)

    @property
    def peak(self) -> int:
        """The most bytes charged at a time, page cache counted, as the kernel noted it."""
        name = "memory.max_usage_in_bytes" if self.memory.version == 1 else "memory.peak"
        return self.memory.number(name) or 0

    @property
    def oom_kills(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        name = "memory.oom_control" if self.memory.version == 1 else "memory.events"
        return self.memory.table(name).get("oom_kill", 0)

    @property
    def pids(self) -> list[int]:
        """Processes in the group."""
        return [int(pid) for pid in self.memory.text("cgroup.procs").split()]

    @contextmanager
    def watch(self, every: float = 0.01, limit: int | None = None) -> Iterator[Peak]:
        """Look at `usage` every so many seconds; keep the largest, count those beyond `limit`."""
        seen = Peak(limit)
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(every):
                seen.see(self.usage)

        thread = threading.Thread(target=look, name="flexinfer-watch", daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()
            seen.see(self.usage)


@contextmanager
def limited(
    *,
    memory: int | None = None,
    read_bps: Mapping[tuple[int, int], int] | None = None,
    proc: Path = PROC,
    sys: Path = SYS,
) -> Iterator[LimitedGroup]:
    """A new group below this process's own, removed at the end.

    Args:
        memory: bytes, of all kinds; nothing may be swapped.
        read_bps: bytes/s by the (major, minor) of a drive; reads past the page cache are held to
            them.

    Raises:
        UnsupportedError: no such group can be made here.
    """
    name = f"flexinfer-{os.getpid()}-{next(_numbers)}"
    with ExitStack() as stack:
        folder = stack.enter_context(_child("memory", name, proc, sys))
        if memory is not None:
            _limit_memory(folder, memory)
        others = []
        if read_bps:
            drive = folder
            if folder.version == 1:
                drive = stack.enter_context(_child("blkio", name, proc, sys))
            for device, rate in read_bps.items():
                _limit_reads(drive, device, rate)
            others.append(drive)
        yield LimitedGroup(folder, others)


@contextmanager
def _child(controller: str, name: str, proc: Path, sys: Path) -> Iterator[Group]:
    own = own_group(controller, proc, sys)
    if own is None:
        raise UnsupportedError(f"this kernel offers no cgroup controller {controller!r} here")
    parent = own if own.version == 1 else _delegating(own)
    child = Group(parent.path / name, own.root, own.version)
    try:
        child.path.mkdir()
    except OSError as error:
        raise UnsupportedError(
            f"cannot make a control group in {parent.path}: {error.strerror}; "
            "run as root or in a delegated group (systemd-run --user --scope -p Delegate=yes)"
        ) from error
    try:
        yield child
    finally:
        _remove(child, parent)


def _delegating(own: Group) -> Group:
    """The nearest v2 group whose children can have limits: not one that holds processes."""
    for group in own.parents:
        wanted = {"memory", "io"} & set(group.text("cgroup.controllers").split())
        missing = wanted - set(group.text("cgroup.subtree_control").split())
        try:
            if missing:
                _write(group, "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
        except UnsupportedError:
            continue
        return group
    raise UnsupportedError(f"no group above {own.path} lets its children have limits")


def _limit_memory(group: Group, memory: int) -> None:
    if group.version == 2:
        _write(group, "memory.max", str(memory))
        swap = "memory.swap.max"
    else:
        _write(group, "memory.limit_in_bytes", str(memory))
        swap = "memory.memsw.limit_in_bytes"
    if (group.path / swap).exists():
        _write(group, swap, "0" if group.version == 2 else str(memory))


def _limit_reads(group: Group, device: tuple[int, int], rate: int) -> None:
    drive = f"{device[0]}:{device[1]}"
    if group.version == 2:
        _write(group, "io.max", f"{drive} rbps={rate}")
    else:
        _write(group, "blkio.throttle.read_bps_device", f"{drive} {rate}")


def _write(group: Group, name: str, value: str) -> None:
    try:
        (group.path / name).write_text(value)
    except OSError as error:
        raise UnsupportedError(
            f"cannot write {value!r} to {group.path / name}: {error.strerror}"
        ) from error


def _remove(child: Group, parent: Group) -> None:
    """A group can be removed once it is empty; who is still inside goes one up."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        try:
            child.path.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                raise UnsupportedError(f"cannot remove {child.path}: {error.strerror}") from error
        else:
            return
        for pid in child.text("cgroup.procs").split():
            _move(parent, pid)
        time.sleep(0.01)


def _move(parent: Group, pid: str) -> None:
    try:
        (parent.path / "cgroup.procs").write_text(pid)
    except OSError:
        return  # it has just ended
