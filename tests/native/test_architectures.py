"""Streamed output equals llama.cpp's, bit for bit, for every architecture in the list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.architectures import tiny
from support.architectures.comparing import COMPARE, KINDS, compare, compared, groups


@pytest.mark.parametrize("names", groups(KINDS), ids=lambda names: names[0])
def test_each_kind_of_architecture(names: tuple[str, ...], tmp_path: Path) -> None:
    compare(names, tmp_path, "--quick")


@pytest.mark.parametrize("mistake", ["absent", "shifted"])
def test_the_comparison_can_fail(mistake: str, tmp_path: Path) -> None:
    """A weight that is not placed must crash; one placed wrongly must change the digest."""
    path = tiny.write("llama-dense", tmp_path)
    command = [
        sys.executable,
        str(COMPARE),
        "streamed",
        "--quick",
        f"--mistake={mistake}",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if mistake == "absent":
        assert done.returncode < 0, "a pointer to an absent weight was read"
        return
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = json.loads(done.stdout)
    right = next(iter(compared("plain", [path], "--quick").values()))
    assert wrong["sha256"] != right["sha256"]
