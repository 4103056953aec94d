"""Plain and streamed runs of tiny models of many architectures, beside each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.architectures import tiny
from support.quantised import quantised

COMPARE = Path(tiny.__file__).with_name("compare.py")
# One of each kind: dense, shared experts, state spaces, mixtures of both, latent attention,
# sliding windows, recurrent weights, encoders, an encoder with a decoder, per-layer embeddings.
KINDS = (
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
REST = tuple(name for name in tiny.models() if name not in KINDS)
# So many models a process: starting one costs as much as two models.
_TOGETHER = 8


def groups(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [names[at : at + _TOGETHER] for at in range(0, len(names), _TOGETHER)]


def compared(mode: str, paths: list[Path], *options: str) -> dict[tuple[str, bool, int], Any]:
    """The lines of `compare.py` by model, flash attention and threads."""
    command = [sys.executable, str(COMPARE), mode, *options, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = map(json.loads, done.stdout.splitlines())
    return {(line["model"], line["flash"], line["threads"]): line for line in lines}


def compare(names: tuple[str, ...], folder: Path, *options: str, ftype: str | None = None) -> None:
    """Compare models, as they are or in another quantisation."""
    paths = [tiny.write(name, folder) for name in names]
    if ftype is not None:
        paths = [quantised(path, ftype, folder).replace(path) for path in paths]
    plain, streamed = compared("plain", paths, *options), compared("streamed", paths, *options)
    assert plain.keys() == streamed.keys()
    different = [k for k in plain if plain[k].get("sha256") != streamed[k].get("sha256")]
    assert different == [], [streamed[key] for key in different[:3]]
    for key, line in streamed.items():
        assert "error" not in line, line
        # Outputs that say something, of weights that were not all in memory.
        assert line["distinct"] > line["bytes"] // 16, key
        assert line["read"] > line["held"] > 0, key
