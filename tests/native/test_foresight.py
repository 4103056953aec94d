"""Routers that run early: they choose as the graph does, guess well, keep the bits."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.architectures import tiny
from support.decoding import Scenario, decode, decode_plainly
from support.tiny_model import TinyModel

import flexinfer
from flexinfer import Llama
from flexinfer.storage.experts.guesses import Guessing

_WRITES_NO_TOKENS = {"llada-moe-moe", "rnd1-moe", "nomic-bert-moe-moe"}
MIXTURE = Path(flexinfer.__file__).with_name("data") / "shakespeare-moe.gguf"
# Some slots, not all.
_HALF = int(MIXTURE.stat().st_size * 0.85)
_GROUPED: dict[str, dict[str, tuple[str, int]]] = {
    "deepseek2-moe": {
        "*.expert_group_count": ("UINT32", 2),
        "*.expert_group_used_count": ("UINT32", 1),
    },
    "grovemoe-moe": {"*.experts_per_group": ("UINT32", 2)},
}
_MIXTURES = tuple(
    name for name in tiny.models() if name.endswith("-moe") and name not in _WRITES_NO_TOKENS
)
_OWN_ROUTERS = Path(tiny.__file__).with_name("own_routers.py")


def _with_experts(name: str, experts: int, used: int) -> dict[str, Any]:
    """A mixture of the list, which have two experts and use both, with more to choose from."""
    model = copy.deepcopy(tiny.models()[name])
    model["blocks"] = model.get("blocks") or model["metadata"]["*.block_count"][1]
    model["metadata"] |= {
        "*.expert_count": ("UINT32", experts),
        "*.expert_used_count": ("UINT32", used),
        **_GROUPED.get(name, {}),
    }
    together = model["metadata"].get("*.experts_per_group", ("UINT32", 1))[1]
    chunks = experts // max(together, 1)
    for at, line in enumerate(model["tensors"]):
        tensor, kind, sizes, *blocks = line.split()
        if re.search(r"(gate|up|down)_(ch)?exps|ffn_gate_inp(?!_)|exp_probs_b", tensor):
            width = sizes.split("x")[:-1]
            last = str(chunks if "_chexps" in tensor else experts)
            model["tensors"][at] = " ".join([tensor, kind, "x".join([*width, last]), *blocks])
    return model


def test_copied_routers_choose_as_the_graph_does(tmp_path: Path) -> None:
    """Given their own router's input."""
    paths = [
        tiny.write_model(_with_experts(name, 8, 3), tmp_path / f"{name}.gguf") for name in _MIXTURES
    ]
    done = subprocess.run(
        [sys.executable, str(_OWN_ROUTERS), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {Path(path).stem: steps for path, steps in json.loads(done.stdout).items()}
    compared = {name for name, steps in found.items() if any(equal for equal, _ in steps)}
    foreseen = {name for name, steps in found.items() if any(ahead for _, ahead in steps)}
    wrong = {name for name, steps in found.items() if any(equal is False for equal, _ in steps)}
    assert wrong == set()
    # The others are read whole, take other inputs, or have one layer of experts.
    assert len(compared) >= 45
    assert len(foreseen) >= 25


def test_a_trained_router_names_experts_of_the_next_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of 16 are right by chance in a quarter of the cases."""
    monkeypatch.setattr(Guessing, "depth", lambda self: 2)
    with Llama(str(MIXTURE), weight_memory=_HALF, n_ctx=256, seed=1, verbose=False) as llm:
        assert llm.experts is not None
        tokens = llm.generate(llm.tokenize(b"ROMEO:\nWhat"), temp=0.8)
        for _ in range(100):
            next(tokens)
        counters = llm.experts.counters
    assert counters.guessed > 100
    assert counters.guessed_right > 0.4 * counters.guessed


def test_equal_bits_with_guesses(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tiny_model("tiny-moe")
    scenario = Scenario(prompts=(40, 3), steps=40, threads=2)
    (expected,) = decode_plainly(path, [scenario], tmp_path)
    room = int(path.stat().st_size * 0.8)
    with Llama(str(path), weight_memory=room, **scenario.options()) as llm:
        assert llm.experts is not None
        assert np.array_equal(decode(llm, scenario), expected)
        assert llm.experts.counters.guessed > 0
