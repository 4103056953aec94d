"""`flexinfer doctor`: findings for machines of all kinds."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.machines import FINE, GIB
from support.tiny_model import TinyModel

from flexinfer.cli.doctor import command
from flexinfer.cli.findings import Finding, _drive_rate, examine
from flexinfer.errors import ModelNotFoundError
from flexinfer.machine.cgroups import Group
from flexinfer.machine.machine import Machine
from flexinfer.rates.drive import DriveRate


def _found(machine: Machine) -> dict[str, Finding]:
    return {finding.topic: finding for finding in examine(machine)}


def test_a_fine_machine_has_nothing_to_change() -> None:
    found = _found(FINE)
    for topic in ("cores", "memory", "group limit", "swap", "locked memory", "huge pages"):
        assert found[topic].good, found[topic]
        assert not found[topic].advice


@pytest.mark.parametrize(
    ("topic", "advice", "changes"),
    [
        ("cores", "taskset", {"cores": 1, "core_limit": "affinity"}),
        ("memory", "ps aux", {"memory_available": GIB // 2}),
        ("swap", "swapoff", {"swap_total": GIB, "memlock": 1 << 16}),
        ("locked memory", "ulimit -l", {"swap_total": GIB, "memlock": 1 << 16}),
        ("huge pages", "echo madvise", {"huge_pages": "never"}),
    ],
)
def test_what_can_be_better_comes_with_a_command(
    topic: str, advice: str, changes: dict[str, int]
) -> None:
    finding = _found(replace(FINE, **changes))[topic]  # type: ignore[arg-type]
    assert not finding.good
    assert advice in finding.advice


LOCKED_IN = replace(FINE, swap_total=GIB, memlock=1, contained=True)
FULL_GROUP = replace(FINE, cgroup_limit=400 << 20, cgroup_used=300 << 20)
SMALL_GROUP = replace(FINE, cgroup_limit=400 << 20, cgroup_used=10 << 20)


@pytest.mark.parametrize(
    ("topic", "machine", "advice", "wrong"),
    [
        ("memory", SMALL_GROUP, "raise the group's limit", "ps aux"),
        (
            "memory",
            replace(SMALL_GROUP, cgroup_used=300 << 20),
            "other programs of the group",
            "ps",
        ),
        ("memory", replace(FINE, ulimit=1 << 28, ulimit_option="-d"), "ulimit -d", "ps aux"),
        ("memory", replace(FINE, memory_total=GIB, memory_available=GIB), "", "ps aux"),
        ("cores", replace(FINE, cores=1, core_limit="group"), "--cpus", "taskset"),
        ("cores", replace(FINE, cores=1, core_limit="affinity"), "taskset", "cpu.max"),
        ("cores", replace(FINE, cores=1), "second core", "taskset"),
        ("swap", replace(SMALL_GROUP, swap_total=GIB, memlock=1), "memory.swap.max", "swapoff"),
        (
            "locked memory",
            replace(FINE, swap_total=GIB, memlock=1, contained=True),
            "docker",
            "ulimit -l",
        ),
        ("huge pages", replace(FINE, huge_pages="never", contained=True), "on the host", ""),
        ("huge pages", replace(FINE, huge_pages="none"), "kernel", "tee"),
        ("process limit", replace(FINE, ulimit=GIB, ulimit_option="-v"), "ulimit -v", "ps"),
    ],
)
def test_advice_is_for_what_binds(topic: str, machine: Machine, advice: str, wrong: str) -> None:
    finding = _found(machine)[topic]
    assert not finding.good
    assert advice in finding.advice
    assert not wrong or wrong not in finding.advice


def test_nothing_is_advised_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    enough = replace(FINE, swap_total=GIB, memlock=30 * GIB)
    assert _found(enough)["swap"].good
    assert _found(enough)["locked memory"].good
    data = replace(FINE, ulimit=8 * GIB, ulimit_option="-d")
    assert _found(data)["process limit"].good
    # llama-cpp-python is installed here: nobody needs a compiler.
    monkeypatch.setattr("flexinfer.cli.findings.shutil.which", lambda name: None)
    assert _found(FINE)["compiler"].good


def test_a_limited_drive_names_the_file_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = DriveRate(1e8, 4, 1 << 22, "limited")
    for version, name in ((1, "blkio.throttle.read_bps_device"), (2, "io.max")):
        group = Group(Path("/group"), Path("/"), version)
        monkeypatch.setattr("flexinfer.cli.findings.own_group", lambda _, group=group: group)
        assert f"cat /group/{name}" in _drive_rate(slow).advice


@pytest.mark.parametrize(
    ("variables", "colored"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(variables: dict[str, str], colored: bool) -> None:
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    command = [sys.executable, "-m", "flexinfer", "doctor"]
    with subprocess.Popen(command, stdout=theirs, env=clean | variables) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the other side closed
            while piece := os.read(ours, 4096):
                said += piece
    os.close(ours)
    assert process.returncode == 0
    assert b"cores" in said
    assert (b"\x1b[" in said) == colored


def test_a_group_that_may_not_swap_needs_no_locking() -> None:
    machine = replace(FINE, swap_total=GIB, cgroup_limit=4 * GIB, cgroup_used=GIB, cgroup_swap=0)
    found = _found(replace(machine, memlock=1 << 16))
    assert found["swap"].good
    assert found["locked memory"].good
    assert "4.00 GiB, 1.00 GiB used" in found["group limit"].text


def test_the_command_looks_at_the_models_drive(tiny_model: TinyModel) -> None:
    result = CliRunner().invoke(command, [str(tiny_model("tiny-llama"))])
    assert result.exit_code == 0, result.output
    assert "GB/s" in result.output
    assert "direct reads" in result.output


def test_json_has_every_finding() -> None:
    result = CliRunner().invoke(command, ["--json"])
    topics = [finding["topic"] for finding in json.loads(result.output)]
    assert {"drive", "cores", "memory", "swap", "compiler", "llama.cpp"} <= set(topics)


def test_no_such_file_is_an_error() -> None:
    result = CliRunner().invoke(command, ["nothing.gguf"])
    assert isinstance(result.exception, ModelNotFoundError)
