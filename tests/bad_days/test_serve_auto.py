"""A server whose budget follows what its group allows, and one with the smallest there is."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from support.served import Served, serving
from support.tiny_model import TinyModel

from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.errors import UnsupportedError

MIB = 1 << 20


def limit(group: LimitedGroup, nbytes: int) -> None:
    name = "memory.limit_in_bytes" if group.memory.version == 1 else "memory.max"
    if group.memory.version == 1:
        (group.memory.path / "memory.memsw.limit_in_bytes").write_text(str(1 << 40))
    (group.memory.path / name).write_text(str(nbytes))


def until(served: Served, low: int, high: int) -> int:
    """The budget, once it lies there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = int(served.stats["memory"]["budget"])
        if low < found <= high:
            return found
        time.sleep(0.1)
    raise AssertionError(f"the budget stays at {found / MIB:.0f} MiB")


def test_an_automatic_budget_follows_its_group(tiny_model: TinyModel) -> None:
    options = ("--memory", "auto", "--ctx", 256)
    try:
        with (
            limited(memory=500 * MIB) as group,
            serving(tiny_model("tiny-wide", "f16"), *options, group=group) as served,
        ):
            assert 300 * MIB < served.ready["budget"] <= 500 * MIB
            expected = served.complete(prompt=[3, 9], n_predict=6, temperature=0)["content"]
            limit(group, 300 * MIB)
            lowered = until(served, 0, 300 * MIB)
            assert f"memory budget {served.ready['budget'] // MIB}" in served.log
            assert "less memory is available" in served.log
            answer = served.complete(prompt=[3, 9], n_predict=6, temperature=0)
            assert answer["content"] == expected
            limit(group, 500 * MIB)
            assert until(served, lowered * 5 // 4, 500 * MIB)
            assert group.oom_kills == 0
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("options", [("--slots", "1"), ("--slots", "6", "--ctx", "700")])
def test_the_smallest_budget_that_is_named_serves(
    tiny_model: TinyModel, options: tuple[str, ...]
) -> None:
    model = tiny_model("tiny-wide", "f16")
    command = [sys.executable, "-m", "flexinfer", "serve", str(model), "--memory", "50MiB"]
    refused = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1
    assert "the server's own" in refused.stderr
    found = re.search(r"the smallest that would do is (\d+) MiB", refused.stderr)
    assert found is not None
    with serving(model, "--memory", f"{found[1]}MiB", *options) as served:
        assert served.complete(prompt=[3, 9], n_predict=6)["tokens_predicted"] == 6
