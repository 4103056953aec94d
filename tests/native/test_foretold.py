"""A plan from the header beside the plan of the model that was opened with the same words."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from support.tiny_model import TinyModel

import flexinfer
from flexinfer import Llama
from flexinfer.errors import UnsupportedError
from flexinfer.gguf.catalogue import read_catalogue

MIB = 1 << 20


@pytest.mark.parametrize(
    "words",
    [
        {"weight_memory": "30MiB"},
        {"weight_memory": "30MiB", "strategy": "attention-first"},
        {"weight_memory": "30MiB", "strategy": "sync", "n_ctx": 2048},
        {"weight_memory": "30MiB", "n_ctx": 300, "n_batch": 48},
        {"weight_memory": "30MiB", "window": "9MiB", "type_k": 8, "type_v": 8, "flash_attn": True},
        {"weight_memory": "1GiB", "logits_all": True, "n_batch": 64},
        {"weight_memory": "30MiB", "n_ctx": 128, "draft": "ngram"},
    ],
)
def test_the_class_makes_the_plan_that_was_foretold(
    tiny_model: TinyModel, words: dict[str, Any]
) -> None:
    path = str(tiny_model("tiny-wide"))
    foretold = flexinfer.plan(path, n_threads=2, **words)
    with Llama(path, n_threads=2, verbose=False, **words) as llm:
        opened = llm.plan
    assert (foretold.ctx, foretold.ubatch) == (opened.ctx, opened.ubatch)
    assert foretold.request.strategy == opened.request.strategy
    assert foretold.held_bytes == pytest.approx(opened.held_bytes, rel=0.02)
    assert foretold.streamed_bytes == pytest.approx(opened.streamed_bytes, rel=0.02, abs=MIB)
    assert foretold.costs.kv == pytest.approx(opened.costs.kv, rel=0.02)


def _flexinfer(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "flexinfer", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_plan_foretells_what_run_does(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-wide")
    smallest = _flexinfer("plan", model, "--memory", "200MiB")["smallest_budget"]
    streams = []
    for budget in (smallest + 2 * MIB, smallest + 40 * MIB):
        words = (model, "--memory", budget)
        foretold = _flexinfer("plan", *words)
        assert (foretold["for"], foretold["ctx"], foretold["ubatch"]) == ("run", 256, 32)
        streams.append(foretold["streamed_bytes"] > 0)
        done = _flexinfer("run", *words, "-p", "hello", "-n", 3)
        assert (done["speed"]["read_bytes_per_token"] > 0) == streams[-1]
        assert done["memory"]["kv"] == foretold["plan"]["costs"]["kv"]
    assert streams == [True, False]


def test_plan_speaks_for_chat_when_asked(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-wide")
    foretold = _flexinfer("plan", model, "--memory", "200MiB", "--as", "chat")
    context = min(4096, read_catalogue(model).parameter("context_length"))
    assert (foretold["for"], foretold["ctx"], foretold["ubatch"]) == ("chat", context, 128)


def test_class_and_run_name_an_architecture_that_llama_cpp_does_not_have(
    tiny_model: TinyModel, tmp_path: Any
) -> None:
    path = tmp_path / "foreign.gguf"
    path.write_bytes(tiny_model("tiny-llama").read_bytes().replace(b"\0llama", b"\0lhama", 1))
    with pytest.raises(UnsupportedError, match="does not have the architecture lhama"):
        Llama(str(path), verbose=False)
    for words in (("run", path, "-p", "x"), ("chat", path)):
        command = [sys.executable, "-m", "flexinfer", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, input="")
        assert (done.returncode, done.stdout) == (1, "")
        assert "does not have the architecture lhama" in done.stderr
        assert done.stderr.count("\n") == 1
