"""Every block of the README runs, with the bundled model in place of a large file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BUNDLED = ROOT / "src/flexinfer/data/shakespeare.gguf"
# Setting up and testing are what the tests stand on; running them from here would not end.
GIVEN = {"scripts/setup", "scripts/test", ". .venv/bin/activate"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [
        line.partition("  #")[0].strip() for block in blocks("sh") for line in block.split("\n")
    ]
    return [line for line in lines if line and line not in GIVEN]


@pytest.mark.parametrize("line", commands())
def test_commands(line: str, tmp_path: Path) -> None:
    words = shlex.split(line.replace("MODEL", str(BUNDLED)))
    if words[0] == "flexinfer":
        words = [sys.executable, "-m", *words]
    elif words[0] == "python":
        words = [sys.executable, *words[1:]]
    done = subprocess.run(
        words,
        cwd=tmp_path if words[1] == "-m" else ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(code.replace("MODEL", str(BUNDLED)))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_two_commands_are_there() -> None:
    for script in ("scripts/setup", "scripts/test", ".ci/run"):
        assert os.access(ROOT / script, os.X_OK), script
    assert {"scripts/setup", "scripts/test", "flexinfer demo"} <= set(
        "\n".join(blocks("sh")).split("\n")
    )


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
