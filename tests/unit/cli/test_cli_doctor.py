"""`flexinfer doctor`: findings for machines of all kinds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from support.tiny_model import TinyModel

from flexinfer.cli.doctor import command
from flexinfer.cli.findings import Finding, examine
from flexinfer.errors import ModelNotFoundError
from flexinfer.machine.machine import Machine

GIB = 1 << 30
FINE = Machine(
    cores=8,
    memory_total=32 * GIB,
    memory_available=24 * GIB,
    swap_total=0,
    cgroup_limit=None,
    cgroup_used=None,
    memlock=None,
    huge_pages="madvise",
)


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
        ("cores", "nproc", {"cores": 1}),
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


def test_a_group_that_may_not_swap_needs_no_locking() -> None:
    machine = replace(FINE, swap_total=GIB, cgroup_limit=4 * GIB, cgroup_used=GIB, cgroup_swap=0)
    found = _found(machine)
    assert found["swap"].good
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
