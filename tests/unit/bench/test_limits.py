from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.fake_system import FakeSystem

from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.errors import UnsupportedError
from flexinfer.machine.cgroups import own_group, read_limit
from flexinfer.machine.machine import device_of

MIB = 1 << 20


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


@pytest.fixture
def group() -> Iterator[LimitedGroup]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(limited(memory=64 * MIB))
        except UnsupportedError as error:
            pytest.skip(str(error))
        yield made


def run(group: LimitedGroup, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=group.join,
        capture_output=True,
        text=True,
        check=False,
    )


def test_limit_is_seen_from_inside(group: LimitedGroup) -> None:
    code = "from flexinfer.machine.machine import Machine; print(Machine.detect().cgroup_limit)"
    assert run(group, code).stdout == f"{64 * MIB}\n"
    assert group.oom_kills == 0
    assert group.peak > 0


def test_too_much_is_killed_and_counted(group: LimitedGroup) -> None:
    with group.watch(0.001) as seen:
        result = run(group, f"bytearray(b'1') * {128 * MIB}")
    assert result.returncode == -9
    assert group.oom_kills == 1
    assert group.pids == []
    assert 32 * MIB < seen.peak <= 64 * MIB
    assert seen.samples > 1


def test_usage_counts_anonymous_memory_of_who_is_inside(group: LimitedGroup) -> None:
    code = f"a = bytearray(b'1') * {20 * MIB}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=group.join,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert group.pids == [process.pid]
        assert 20 * MIB < group.usage <= group.peak <= 64 * MIB
        process.stdin.close()
    assert group.pids == []
    assert group.usage < 20 * MIB


def test_group_is_removed_also_when_someone_is_inside() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with limited(memory=64 * MIB) as group:
            group.add(process.pid)
        assert not group.memory.path.exists()
    except UnsupportedError as error:
        pytest.skip(str(error))
    finally:
        process.communicate(b"\n")
    assert process.returncode == 0


def test_drive_rate_is_limited(tmp_path: Path) -> None:
    device = device_of(tmp_path)
    if device is None:
        pytest.skip("the temporary folder is on no drive")
    try:
        with limited(read_bps={device: 900_000_000}) as group:
            code = f"from flexinfer.machine.cgroups import read_limit; print(read_limit({device}))"
            assert run(group, code).stdout == "900000000\n"
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert not any(folder.path.exists() for folder in group.folders)


def test_v2_group_is_made_where_children_may_have_limits(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexinfer.bench.limits._REMOVE_SECONDS", 0.0)
    system.mount_v2(group="/user/session")
    for name in ("user", "user/session"):
        system.write(f"sys/fs/cgroup/{name}/cgroup.controllers", "cpu io memory\n")
    system.write("sys/fs/cgroup/user/cgroup.subtree_control", "cpu io memory\n")
    # Writing here means EBUSY on a real one: it holds this process.
    (system.sys / "fs/cgroup/user/session/cgroup.subtree_control").mkdir()
    with pytest.raises(UnsupportedError, match="cannot remove"):  # plain files stay behind
        _v2_group(system)
    made = next((system.sys / "fs/cgroup/user").glob("flexinfer-*"))
    assert (made / "memory.max").read_text() == str(64 * MIB)
    assert (made / "io.max").read_text() == "259:0 rbps=500"


def _v2_group(system: FakeSystem) -> None:
    with limited(
        memory=64 * MIB, read_bps={(259, 0): 500}, proc=system.proc, sys=system.sys
    ) as group:
        (group.memory.path / "memory.stat").write_text("anon 100\nkernel 20\nfile 7\n")
        (group.memory.path / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
        (group.memory.path / "memory.peak").write_text("300\n")
        assert (group.usage, group.oom_kills, group.peak) == (120, 1, 300)


def test_no_controller_is_unsupported(system: FakeSystem) -> None:
    with pytest.raises(UnsupportedError, match="offers no cgroup controller 'memory'"):
        limited(memory=MIB, proc=system.proc, sys=system.sys).__enter__()


def test_folder_that_may_not_be_made_is_unsupported(system: FakeSystem) -> None:
    system.mount_v1("memory", group="/a")
    system.write("sys/fs/cgroup/memory/a", "a file, no folder")
    (system.sys / "fs/cgroup/memory").rename(system.sys / "fs/cgroup/gone")
    with pytest.raises(UnsupportedError, match="cannot make a control group"):
        limited(memory=MIB, proc=system.proc, sys=system.sys).__enter__()


def test_read_limits(system: FakeSystem) -> None:
    system.mount_v1("blkio", group="/a")
    system.write("sys/fs/cgroup/blkio/a/blkio.throttle.read_bps_device", "8:0 7000\n254:0 5000\n")
    system.write("sys/fs/cgroup/blkio/blkio.throttle.read_bps_device", "254:0 4000\n")
    assert read_limit((254, 0), system.proc, system.sys) == 4000
    assert read_limit((8, 0), system.proc, system.sys) == 7000
    assert read_limit((8, 1), system.proc, system.sys) is None
    system.mount_v2(group="/b")
    system.write("sys/fs/cgroup/b/io.max", "254:0 rbps=max wbps=3\n8:0 rbps=9 wbps=max\n")
    assert read_limit((254, 0), system.proc, system.sys) is None
    assert read_limit((8, 0), system.proc, system.sys) == 9


def test_own_group_repr(system: FakeSystem) -> None:
    system.mount_v1("memory", group="/")
    group = own_group("memory", system.proc, system.sys)
    assert group is not None
    assert "v1" in repr(LimitedGroup(group))
