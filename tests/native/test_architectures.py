"""Streamed output equals llama.cpp's, bit for bit, for every architecture in the list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.architectures import tiny

pytestmark = pytest.mark.native

_COMPARE = Path(tiny.__file__).with_name("compare.py")
# One of each kind: dense, shared experts, state spaces, mixtures of both, latent attention,
# sliding windows, recurrent weights, encoders, an encoder with a decoder, per-layer embeddings.
_KINDS = (
    "llama-dense",
    "llama-moe",
    "qwen2moe-moe",
    "gpt-oss-moe",
    "mamba-dense",
    "mamba2-dense",
    "jamba-dense",
    "falcon-h1-dense",
    "qwen3next-moe",
    "kimi-linear-moe",
    "deepseek2-moe",
    "deepseek4-moe",
    "minicpm3-dense",
    "gemma3-dense",
    "gemma3n-dense",
    "rwkv6-dense",
    "rwkv7-dense",
    "bert-dense",
    "modern-bert-dense",
    "t5-dense",
    "dream-dense",
    "chameleon-dense",
)
_REST = tuple(name for name in tiny.models() if name not in _KINDS)
# So many models a process: starting one costs as much as two models.
_TOGETHER = 8


def _groups(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [names[at : at + _TOGETHER] for at in range(0, len(names), _TOGETHER)]


def _run(mode: str, paths: list[Path], *options: str) -> dict[tuple[str, bool, int], Any]:
    """The lines of `compare.py` by model, flash attention and threads."""
    command = [sys.executable, str(_COMPARE), mode, *options, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = map(json.loads, done.stdout.splitlines())
    return {(line["model"], line["flash"], line["threads"]): line for line in lines}


def _compare(names: tuple[str, ...], folder: Path, *options: str) -> None:
    paths = [tiny.write(name, folder) for name in names]
    plain, streamed = _run("plain", paths, *options), _run("streamed", paths, *options)
    assert plain.keys() == streamed.keys()
    different = [k for k in plain if plain[k].get("sha256") != streamed[k].get("sha256")]
    assert different == [], [streamed[key] for key in different[:3]]
    for key, line in streamed.items():
        assert "error" not in line, line
        # Outputs that say something, of weights that were not all in memory.
        assert line["distinct"] > line["bytes"] // 16, key
        assert line["read"] > line["held"] > 0, key


@pytest.mark.parametrize("names", _groups(_KINDS), ids=lambda names: names[0])
def test_each_kind_of_architecture(names: tuple[str, ...], tmp_path: Path) -> None:
    _compare(names, tmp_path, "--quick")


@pytest.mark.slow
@pytest.mark.parametrize("names", _groups(_REST), ids=lambda names: names[0])
def test_all_other_architectures(names: tuple[str, ...], tmp_path: Path) -> None:
    _compare(names, tmp_path, "--quick")


@pytest.mark.slow
@pytest.mark.parametrize("names", _groups(_KINDS), ids=lambda names: names[0])
def test_flash_attention_and_threads(names: tuple[str, ...], tmp_path: Path) -> None:
    _compare(names, tmp_path)


@pytest.mark.parametrize("mistake", ["absent", "shifted"])
def test_the_comparison_can_fail(mistake: str, tmp_path: Path) -> None:
    """A weight that is not placed must crash; one placed wrongly must change the digest."""
    path = tiny.write("llama-dense", tmp_path)
    command = [
        sys.executable,
        str(_COMPARE),
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
    right = next(iter(_run("plain", [path], "--quick").values()))
    assert wrong["sha256"] != right["sha256"]
