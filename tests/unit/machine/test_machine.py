from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.fake_system import STATUS, FakeSystem

from flexinfer.machine.machine import Machine, device_of, process_memory, usable_cores

GIB = 1 << 30
OWN = (1000 + 24 + 100) * 1024 + 5 * 16384


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def detect(system: FakeSystem) -> Machine:
    return Machine.detect(system.proc, system.sys)


def test_reads_the_machine(system: FakeSystem) -> None:
    system.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    system.write("proc/pressure/memory", "some avg10=0.00\n")
    machine = detect(system)
    assert machine.memory_total == 16_000_000 * 1024
    assert machine.memory_available == 8_000_000 * 1024
    assert machine.swap_total == 1_000_000 * 1024
    assert machine.huge_pages == "madvise"
    assert machine.pressure
    assert machine.process == OWN
    assert (machine.cgroup_limit, machine.cgroup_used, machine.cgroup_swap) == (None, None, None)
    assert Machine(**json.loads(json.dumps(asdict(machine)))) == machine


def test_this_machine_has_memory_and_cores() -> None:
    machine = Machine.detect()
    assert 0 < machine.default_budget < machine.memory_total
    assert 1 <= machine.cores <= len(os.sched_getaffinity(0))
    assert machine.kernel


def test_missing_files_mean_none(system: FakeSystem) -> None:
    machine = detect(system)
    assert machine.huge_pages == "none"
    assert not machine.pressure


def test_process_memory_counts_anonymous_and_kernel_bytes(system: FakeSystem) -> None:
    assert process_memory(system.proc) == OWN


def test_process_memory_grows_with_what_is_touched() -> None:
    # In a process of its own: what earlier tests left may be freed at any moment here.
    code = (
        "from flexinfer.machine.machine import process_memory as held\n"
        "before = held(); block = bytearray(b'\\1') * (32 << 20); print(held() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 32 << 20 <= int(done.stdout) < 40 << 20


def test_memlock_is_no_limit_for_who_may_lock(system: FakeSystem) -> None:
    system.write("proc/self/status", STATUS.format(capabilities="0000000000004000"))
    assert detect(system).memlock is None


# -- processors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topology", "processors", "cores"),
    [
        ([(0, 0), (0, 1)], {0, 1}, 2),
        ([(0, 0), (0, 1), (0, 0), (0, 1)], {0, 1, 2, 3}, 2),  # hyperthreads
        ([(0, 0), (1, 0)], {0, 1}, 2),  # two packages
        ([(0, 0), (0, 1), (0, 0), (0, 1)], {1, 3}, 1),  # affinity
        ([], {0, 1, 2}, 3),  # topology is not shown
    ],
)
def test_cores(
    system: FakeSystem, topology: list[tuple[int, int]], processors: set[int], cores: int
) -> None:
    system.processors(topology)
    assert usable_cores(processors, system.proc, system.sys) == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [("-1", 4), ("200000", 2), ("150000", 1), ("50000", 1), ("900000", 4)]
)
def test_cores_within_v1_quota(system: FakeSystem, quota: str, cores: int) -> None:
    system.mount_v1("cpu", group="/docker/x", inside="/docker/x")
    system.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    system.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000)
    assert usable_cores({0, 1, 2, 3}, system.proc, system.sys) == cores


def test_cores_within_v2_quota_of_a_parent(system: FakeSystem) -> None:
    system.mount_v2(group="/user/session")
    system.write("sys/fs/cgroup/user/session/cpu.max", "max 100000\n")
    system.write("sys/fs/cgroup/user/cpu.max", "300000 100000\n")
    assert usable_cores({0, 1, 2, 3}, system.proc, system.sys) == 3


# -- memory of groups ------------------------------------------------------------------------------


def write_v1(system: FakeSystem, group: str, limit: int, used: int, cache: int = 0) -> None:
    folder = f"sys/fs/cgroup/memory{group}"
    system.write(f"{folder}/memory.limit_in_bytes", limit)
    system.write(f"{folder}/memory.usage_in_bytes", used)
    system.write(f"{folder}/memory.stat", f"rss 5\ntotal_active_file {cache}\n")


def test_v1_group(system: FakeSystem) -> None:
    system.mount_v1("memory", group="/a/b")
    write_v1(system, "/a/b", 2 * GIB, GIB, GIB // 2)
    write_v1(system, "/a", 9223372036854771712, 3 * GIB)
    system.write("sys/fs/cgroup/memory/a/b/memory.memsw.limit_in_bytes", 3 * GIB)
    machine = detect(system)
    assert machine.cgroup_limit == 2 * GIB
    assert machine.cgroup_used == GIB // 2
    assert machine.cgroup_swap == GIB


def test_the_parent_may_leave_less_room(system: FakeSystem) -> None:
    system.mount_v1("memory", group="/a/b")
    write_v1(system, "/a/b", 2 * GIB, GIB)
    write_v1(system, "/a", 8 * GIB, 8 * GIB - 1000)
    machine = detect(system)
    assert machine.cgroup_limit == 8 * GIB
    assert machine.default_budget < machine.ceiling == OWN + 1000


def test_container_that_sees_its_own_group_only(system: FakeSystem) -> None:
    system.mount_v1("memory", group="/docker/x", inside="/docker/x")
    write_v1(system, "", GIB, 0)
    assert detect(system).cgroup_limit == GIB


def test_group_path_that_means_nothing_here(system: FakeSystem) -> None:
    system.mount_v1("memory", group="/../../other")
    write_v1(system, "", GIB, 0)
    assert detect(system).cgroup_limit == GIB


def test_v2_group(system: FakeSystem) -> None:
    system.mount_v2(group="/user/session")
    folder = "sys/fs/cgroup/user/session"
    system.write(f"{folder}/memory.max", "max\n")
    system.write(f"{folder}/memory.current", GIB)
    system.write("sys/fs/cgroup/user/memory.max", 4 * GIB)
    system.write("sys/fs/cgroup/user/memory.high", 3 * GIB)
    system.write("sys/fs/cgroup/user/memory.current", 2 * GIB)
    system.write("sys/fs/cgroup/user/memory.swap.max", "max\n")
    system.write("sys/fs/cgroup/user/memory.stat", f"anon 7\ninactive_file {GIB}\nactive_file 24\n")
    machine = detect(system)
    assert machine.cgroup_limit == 3 * GIB
    assert machine.cgroup_used == GIB - 24
    assert machine.cgroup_swap is None


def test_v2_without_the_memory_controller(system: FakeSystem) -> None:
    system.mount_v2(group="/user", controllers="cpu")
    system.write("sys/fs/cgroup/user/memory.max", GIB)
    assert detect(system).cgroup_limit is None


# -- the default budget ----------------------------------------------------------------------------


def test_default_budget_leaves_the_system_its_part(system: FakeSystem) -> None:
    machine = replace(detect(system), memory_available=8 * GIB, process=GIB)
    assert machine.default_budget == 9 * GIB - 9 * GIB // 20
    small = replace(machine, memory_available=GIB, process=0)
    assert small.default_budget == GIB - (256 << 20)
    assert replace(machine, memory_available=100 << 20, process=0).default_budget == 75 << 20
    assert replace(machine, memory_available=0, process=0).default_budget == 0


def test_default_budget_in_a_group_counts_the_others(system: FakeSystem) -> None:
    machine = replace(
        detect(system),
        memory_available=20 * GIB,
        process=100,
        cgroup_limit=2 * GIB,
        cgroup_used=GIB + 100,
    )
    assert machine.default_budget == GIB - GIB // 20
    tiny = replace(machine, cgroup_limit=200 << 20, cgroup_used=100)
    assert tiny.default_budget == (200 << 20) - (200 << 20) // 16
    large = replace(machine, cgroup_limit=600 << 20, cgroup_used=100)
    assert large.default_budget == 568 << 20


def test_what_binds_is_named(system: FakeSystem) -> None:
    machine = replace(detect(system), memory_available=8 * GIB, process=GIB)
    assert machine.binding == "machine"
    grouped = replace(machine, cgroup_limit=4 * GIB, cgroup_used=2 * GIB)
    assert grouped.binding == "group"
    assert (grouped.others, grouped.ceiling) == (GIB, 3 * GIB)
    limited = replace(grouped, ulimit=GIB, ulimit_option="-v")
    assert limited.binding == "ulimit"
    assert limited.ceiling == 2 * GIB
    assert limited.default_budget == 2 * GIB - 2 * GIB // 20


def test_what_there_is_does_not_depend_on_what_is_free(system: FakeSystem) -> None:
    machine = detect(system)
    assert machine.memory_existing == machine.memory_total
    assert replace(machine, memory_available=1).memory_existing == machine.memory_total
    assert replace(machine, cgroup_limit=GIB, cgroup_used=5).memory_existing == GIB
    huge = replace(machine, cgroup_limit=machine.memory_total * 2, cgroup_used=5)
    assert huge.memory_existing == machine.memory_total


# -- drives ----------------------------------------------------------------------------------------


def test_device_is_the_whole_drive(system: FakeSystem, tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    disk = system.write("sys/devices/nvme0/dev", "259:0\n").parent
    system.write("sys/devices/nvme0/p1/dev", "259:1\n")
    link = system.sys / f"dev/block/{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(disk)
    assert device_of(tmp_path, system.sys) == (259, 0)
    link.unlink()
    link.symlink_to(disk / "p1")
    system.write("sys/devices/nvme0/p1/partition", 1)
    assert device_of(tmp_path, system.sys) == (259, 0)


def test_memory_is_no_drive(system: FakeSystem, tmp_path: Path) -> None:
    assert device_of(tmp_path, system.sys) is None
    assert device_of("/proc") is None
