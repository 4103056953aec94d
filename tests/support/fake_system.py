"""A small /proc and /sys in a folder, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

STATUS = """\
Name:\tpython
RssAnon:\t    1000 kB
RssFile:\t   50000 kB
RssShmem:\t      24 kB
VmPTE:\t     100 kB
Threads:\t5
CapEff:\t{capabilities}
"""
MEMINFO = """\
MemTotal:       16000000 kB
MemAvailable:    8000000 kB
SwapTotal:       1000000 kB
HugePages_Total:       0
"""


class FakeSystem:
    """Writes files below `proc` and `sys`, as Linux would show them."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.sys = folder / "sys"
        self.write("proc/meminfo", MEMINFO)
        self.write("proc/self/status", STATUS.format(capabilities="0"))
        self.write("proc/self/cgroup", "")
        self.write("proc/self/mountinfo", "")

    def write(self, path: str, text: str | int) -> Path:
        """`path` starts with proc/ or sys/."""
        target = self.proc.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n" if isinstance(text, int) else text)
        return target

    def mount_v1(self, *controllers: str, group: str, inside: str = "/") -> None:
        lines, mounts = [], []
        for number, name in enumerate(controllers):
            lines.append(f"{number}:{name}:{group}")
            mounts.append(
                f"3{number} 31 0:29 {inside} /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}"
            )
            (self.sys / "fs/cgroup" / name).mkdir(parents=True, exist_ok=True)
        self.write("proc/self/cgroup", "\n".join([*lines, f"0::{group}"]) + "\n")
        self.write("proc/self/mountinfo", "\n".join(mounts) + "\n")

    def mount_v2(self, *, group: str, controllers: str = "cpu io memory") -> None:
        self.write("proc/self/cgroup", f"0::{group}\n")
        self.write(
            "proc/self/mountinfo",
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
        )
        self.write("sys/fs/cgroup/cgroup.controllers", controllers)
        (self.sys / "fs/cgroup" / group.strip("/")).mkdir(parents=True, exist_ok=True)

    def processors(self, cores: list[tuple[int, int]]) -> None:
        """For each processor its package and core."""
        for cpu, (package, core) in enumerate(cores):
            folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
            self.write(f"{folder}/physical_package_id", package)
            self.write(f"{folder}/core_id", core)
