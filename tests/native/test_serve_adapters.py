"""LoRA adapters under the server: llama-server's tokens, planned for, refused when wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.api_calls import write_adapter
from support.command import assert_one_sentence, flexinfer
from support.served import Served, plainly_serving, serving
from support.tiny_model import TinyModel

from flexinfer.bench.limits import limited
from flexinfer.errors import UnsupportedError

_SAME = ("--parallel", 2, "--kv-unified-per-slot", 256, "--batch-size", 64, "--ubatch-size", 64)
_PLAIN = (*_SAME, "--kv-unified", "--threads", 2, "--device", "none", "--fit", "off", "--no-repack")
_OURS = ("--slots", 2, "--ctx", 256, "--ubatch", 64, "--threads", 2, "--no-repack")
_PROMPTS = ([3, 17, 101, 9], [5, 9], [*range(10, 60)])


def tokens(served: Served, **more: Any) -> list[tuple[list[int], Any]]:
    fixed = {"n_predict": 24, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
    found = []
    for prompt in _PROMPTS:
        answer = served.complete(prompt=prompt, return_tokens=True, n_probs=3, **fixed, **more)
        found.append((answer["tokens"], answer["completion_probabilities"]))
    return found


def test_tokens_with_an_adapter_are_the_same(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    # A comma in a name separates nothing.
    one = write_adapter(tmp_path / "o,ne.gguf", strength=64.0)
    two = write_adapter(tmp_path / "two.gguf", strength=64.0, seed=2)
    with serving(model, *_OURS) as bare:
        without = tokens(bare)
    quarter = ("--weight-memory", model.stat().st_size // 4)
    quoted = tmp_path / "same.gguf"
    quoted.write_bytes(one.read_bytes())
    with (
        plainly_serving("--model", model, *_PLAIN, "--lora", quoted, "--lora", two) as plain,
        serving(model, *_OURS, *quarter, "--lora", one, "--lora", two) as ours,
    ):
        assert ours.get("/engine/plan")[1]["streamed_bytes"] > 0
        both_applied = tokens(ours)
        assert both_applied == tokens(plain) != without
        # One of them by request, the other not at all.
        scales = [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 0.0}]
        assert tokens(ours, lora=scales) == tokens(plain, lora=scales) != both_applied
        for served in (plain, ours):
            assert served.post("/lora-adapters", [{"id": 0, "scale": 0.0}])[0] == 200
        assert tokens(ours) == tokens(plain) == without


def _smallest(model: Path, *options: object) -> int:
    """The smallest budget that the command names, in bytes."""
    done = flexinfer("serve", model, *_OURS, "--memory", "20MiB", "--port", 0, *options)
    found = re.search(r"the smallest that would do is (\d+) MiB", done.stderr)
    assert found, done.stderr
    return int(found[1]) << 20


def test_an_adapter_is_within_the_budget(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Four matrices of 256 x 8,192 floats: 32 MiB that the plan has to leave."""
    model = tiny_model("tiny-llama", "f16")
    large = write_adapter(tmp_path / "large.gguf", rank=8192)
    least = _smallest(model, "--lora", large)
    assert least >= _smallest(model) + (32 << 20)
    budget = least + (8 << 20)
    try:
        with (
            # With room for what a group's limit keeps free.
            limited(memory=budget + (32 << 20)) as group,
            group.watch(0.005) as seen,
            serving(model, *_OURS, "--memory", budget, "--lora", large, group=group) as served,
        ):
            tokens(served)
            assert group.oom_kills == 0
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert seen.samples > 20
    assert seen.peak <= budget


def test_a_wrong_adapter_is_refused_before_anything_loads(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    good = write_adapter(tmp_path / "good.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(good.read_bytes()[:200])
    others = tiny_model("tiny-qwen", "q4_0")
    for named, adapter, word in (
        (model, model, "is no LoRA adapter"),
        (model, cut, "cut.gguf"),
        (others, good, "is an adapter of the architecture llama"),
    ):
        done = flexinfer("serve", named, "--memory", "150MiB", "--port", 0, "--lora", adapter)
        assert_one_sentence(done, str(adapter), word)
