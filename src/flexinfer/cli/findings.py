"""What this machine offers to streamed models, in plain words, and what would help."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from flexinfer.machine.cgroups import own_group
from flexinfer.machine.machine import Machine
from flexinfer.rates.drive import DriveRate, drive_rate
from flexinfer.reading.open_file import Access, OpenFile
from flexinfer.sizes import format_size

GIB = 1 << 30
# A drive slower than this makes every model larger than memory slow.
_SLOW_DRIVE = 1e9


@dataclass(frozen=True)
class Finding:
    """One look at one thing.

    Attributes:
        good: whether there is nothing to change.
        advice: what to change and by which command; empty when there is nothing.
    """

    topic: str
    good: bool
    text: str
    advice: str = ""


def examine(machine: Machine, model: str | None = None) -> list[Finding]:
    """All findings; drive and direct reads are looked at through `model`'s file.

    Raises:
        ModelNotFoundError: there is no such file.
        ReadError: the drive failed.
    """
    findings = [
        _cores(machine),
        _memory(machine),
        _group(machine),
        _ulimit(machine),
        _swap(machine),
        _locking(machine),
        _huge_pages(machine),
        *_tools(),
    ]
    return [*_drive(model), *findings]


def _drive(model: str | None) -> Iterator[Finding]:
    if model is None:
        advice = "flexinfer doctor MODEL.gguf measures the drive that holds the model"
        yield Finding("drive", True, "not measured: no file was named", advice)
        return
    rate = drive_rate([model])
    yield _drive_rate(rate)
    file = OpenFile(model)
    try:
        direct = file.access is Access.DIRECT
    finally:
        file.close()
    if direct:
        yield Finding("direct reads", True, "the file system reads past the page cache")
    else:
        yield Finding(
            "direct reads",
            False,
            "the file system refuses them: bytes take the way through the page cache",
            "move the model to a local ext4, xfs or btrfs: findmnt -T MODEL.gguf shows what it is",
        )


def _drive_rate(rate: DriveRate) -> Finding:
    text = f"{rate.rate / 1e9:.2f} GB/s ({rate.source}, {rate.threads} reads at a time)"
    if rate.source == "limited":
        return Finding("drive", False, text, f"the group's limit holds it back: {_io_limit()}")
    if rate.source == "assumed":
        return Finding("drive", True, f"{text}; a model below 64 MiB tells nothing about it")
    advice = "" if rate.rate >= _SLOW_DRIVE else "keep the model on an NVMe drive, if there is one"
    return Finding("drive", not advice, text, advice)


def _io_limit() -> str:
    group = own_group("io")
    if group is None:
        return "its io.max"
    name = "io.max" if group.version == 2 else "blkio.throttle.read_bps_device"
    return f"cat {group.path / name}, and those of the groups above it"


def _cores(machine: Machine) -> Finding:
    one = machine.cores == 1
    text = f"{machine.cores} physical core{'' if one else 's'} for this process"
    if not one:
        return Finding("cores", True, text)
    return Finding("cores", False, text, _MORE_CORES[machine.core_limit])


_MORE_CORES = {
    "group": "the group's processor time is the limit: cpu.max; docker run --cpus 2",
    "affinity": "it may use no other: taskset -p $$ shows that, taskset -pc 0-1 $$ changes it",
    "": "a machine with a second core would read while the first computes",
}


def _memory(machine: Machine) -> Finding:
    text = (
        f"{format_size(machine.memory_available)} of {format_size(machine.memory_total)} "
        f"available; the default budget would be {format_size(machine.default_budget)}"
    )
    if machine.default_budget >= GIB:
        return Finding("memory", True, text)
    text += _BOUND_BY[machine.binding]
    if machine.binding == "ulimit":
        advice = f"ulimit {machine.ulimit_option} unlimited"
    elif machine.binding == "machine":
        # What is in use can be ended only if it is there.
        little = machine.memory_total < 2 * GIB
        advice = "" if little else "end programs that hold memory: ps aux --sort=-rss | head"
    elif machine.others > (machine.cgroup_limit or 0) // 2:
        advice = "other programs of the group hold most of it: end them, or raise its limit"
    else:
        advice = "raise the group's limit: memory.max; docker run --memory 4g"
    return Finding("memory", False, text, advice)


_BOUND_BY = {
    "machine": "",
    "group": ", for the group's limit",
    "ulimit": ", for the limit on this process (ulimit)",
}


def _group(machine: Machine) -> Finding:
    if machine.cgroup_limit is None:
        return Finding("group limit", True, "none: the machine's memory is the only limit")
    used = f", {format_size(machine.cgroup_used)} used" if machine.cgroup_used is not None else ""
    text = f"{format_size(machine.cgroup_limit)}{used}; budgets are held below it"
    return Finding("group limit", True, text)


def _ulimit(machine: Machine) -> Finding:
    if machine.ulimit is None:
        return Finding("process limit", True, "none")
    text = f"{format_size(machine.ulimit)} left to map (ulimit {machine.ulimit_option})"
    if machine.ulimit_option != "-v":
        return Finding("process limit", True, f"{text}; budgets are held below it")
    text += "; a model needs addresses for all of its weights, also those that stream"
    advice = "ulimit -v unlimited, where the hard limit allows it: ulimit -Hv"
    return Finding("process limit", False, text, advice)


def _swap(machine: Machine) -> Finding:
    if not machine.swaps:
        return Finding("swap", True, "none: what is in memory stays in memory")
    size = format_size(machine.swap_total)
    if _may_lock(machine):
        return Finding("swap", True, f"{size}, but locked weights are kept out of it")
    text = f"{size}: locked weights may be swapped out"
    if machine.cgroup_limit is not None:
        advice = "have the group not swap: memory.swap.max; docker run --memory-swap as --memory"
    else:
        advice = "sudo swapoff -a, or let more memory be locked"
    return Finding("swap", False, text, advice)


def _locking(machine: Machine) -> Finding:
    if machine.memlock is None:
        return Finding("locked memory", True, "no limit")
    text = f"limited to {format_size(machine.memlock)}"
    # Without swap nothing moves out of memory, locked or not.
    if not machine.swaps:
        return Finding("locked memory", True, f"{text}, which is enough without swap")
    if _may_lock(machine):
        return Finding("locked memory", True, f"{text}, which is enough for the default budget")
    if machine.contained:
        advice = "docker run --ulimit memlock=-1"
    else:
        advice = "ulimit -l unlimited, after raising memlock in /etc/security/limits.conf"
    return Finding("locked memory", False, text, advice)


def _may_lock(machine: Machine) -> bool:
    return machine.memlock is None or machine.memlock >= machine.default_budget


def _huge_pages(machine: Machine) -> Finding:
    if machine.huge_pages in ("always", "madvise"):
        return Finding("huge pages", True, f"{machine.huge_pages}: weights lie in 2 MiB pages")
    text = f"{machine.huge_pages}: reading costs more processor time"
    if machine.huge_pages == "none":
        return Finding("huge pages", False, text, "this kernel has none; another one would")
    advice = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    if machine.contained:
        advice = f"on the host of this container: {advice}"
    return Finding("huge pages", False, text, advice)


def _tools() -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("llama-cpp-python")
        yield Finding("llama.cpp", True, f"llama-cpp-python {version} is installed")
    except importlib.metadata.PackageNotFoundError:
        version = ""
        advice = "pip install flexinfer brings it; it is compiled, which takes minutes"
        yield Finding("llama.cpp", False, "llama-cpp-python is not installed", advice)
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    cxx = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler and cxx:
        yield Finding("compiler", True, f"{compiler} and {cxx}: llama-cpp-python can be built")
    elif version:
        yield Finding("compiler", True, "none, and none is needed: llama-cpp-python is built")
    else:
        advice = "sudo apt install build-essential (Debian, Ubuntu)"
        yield Finding("compiler", False, "none: llama-cpp-python cannot be built", advice)
