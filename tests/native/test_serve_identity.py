"""The server's tokens are llama-server's, whose own code runs beside it without our engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.architectures import tiny
from support.quantised import quantised
from support.served import Served, plainly_serving, serving
from support.tiny_model import TinyModel

CONTEXT, UBATCH = 128, 64
DATA = Path(str(files("flexinfer") / "data"))
PROMPTS = ([3, 17, 101, 9, 44, 8, 61, 27], [5, 9], [*range(10, 60)], [70, 71, 2, 3, 90])


def bundled(name: str, make: TinyModel, folder: Path) -> Path:
    return DATA / name


def k_quants(name: str, make: TinyModel, folder: Path) -> Path:
    return quantised(make(name, "f16"), "q4_K_M", folder)


def architecture(name: str, make: TinyModel, folder: Path) -> Path:
    return tiny.write(name, folder)


MODELS = {
    "dense": (bundled, "shakespeare.gguf"),
    "mixture": (bundled, "shakespeare-moe.gguf"),
    "K-quants": (k_quants, "tiny-llama"),
    "sliding window": (architecture, "gemma3-dense"),
    "recurrent": (architecture, "mamba2-dense"),
    "recurrent weights": (architecture, "rwkv7-dense"),
    "both": (architecture, "falcon-h1-dense"),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path: Path) -> Path:
    make, name = MODELS[request.param]
    return make(name, tiny_model, tmp_path)


@contextmanager
def both(model: Path, slots: int, *, packed: bool = False) -> Iterator[tuple[Served, Served]]:
    """llama-server with all weights in memory, and ours with a quarter of them where possible."""
    same = ("--parallel", slots, "--kv-unified-per-slot", CONTEXT, "--batch-size", UBATCH)
    plain = (*same, "--ubatch-size", UBATCH, "--kv-unified", "--threads", 2, "--device", "none")
    plain = ("--model", model, *plain, "--fit", "off", *(() if packed else ("--no-repack",)))
    # One matrix of these is more than a quarter.
    share = 0.75 if model.stem in ("mamba2-dense", "falcon-h1-dense") else 0.25
    weights = int(model.stat().st_size * share)
    sizes = ("--slots", slots, "--ctx", CONTEXT, "--ubatch", UBATCH, "--threads", 2)
    ours = (*sizes, "--weight-memory", weights, "--repack" if packed else "--no-repack")
    with plainly_serving(*plain) as expected, serving(model, *ours) as served:
        _, plan = served.get("/engine/plan")
        assert plan["streamed_bytes"] > 0
        yield expected, served


def wish(prompt: Sequence[Any], tokens: int = 24, **more: Any) -> dict[str, Any]:
    fixed = {"ignore_eos": True, "cache_prompt": False, "return_tokens": True, "seed": 7}
    return {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, **fixed, **more}


def together(served: Served, **more: Any) -> list[tuple[list[int], Any]]:
    """Tokens and their probabilities for all prompts, in one request: batches are the same then."""
    status, answers = served.post("/completion", wish(PROMPTS, n_probs=5, **more))
    assert status == 200, answers
    answers.sort(key=lambda answer: answer["index"])
    return [(answer["tokens"], answer["completion_probabilities"]) for answer in answers]


def test_one_slot_gives_the_same_tokens_and_probabilities(model: Path) -> None:
    with both(model, 1) as (plain, ours):
        for prompt in PROMPTS:
            asked = wish(prompt, n_probs=5, temperature=0.8)
            expected, got = plain.complete(**asked), ours.complete(**asked)
            assert len(got["tokens"]) == 24
            assert got["tokens"] == expected["tokens"]
            assert got["completion_probabilities"] == expected["completion_probabilities"]


def test_four_slots_at_a_time_give_the_same_tokens_and_probabilities(model: Path) -> None:
    with both(model, 4) as (plain, ours):
        expected = together(plain)
        assert len({tuple(tokens) for tokens, _ in expected}) > 1
        assert together(ours) == expected


@pytest.mark.parametrize("name", ["dense", "mixture"])
def test_sixteen_choices_of_one_request_are_the_same(
    name: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    make, file = MODELS[name]
    with both(make(file, tiny_model, tmp_path), 16) as (plain, ours):
        asked = {"prompt": "ROMEO:", "n": 16, "max_tokens": 16, "temperature": 0.9, "seed": 7}
        answers = [served.post("/v1/completions", asked) for served in (plain, ours)]
        texts = [[choice["text"] for choice in answer["choices"]] for _, answer in answers]
        assert [status for status, _ in answers] == [200, 200]
        assert len(set(texts[0])) > 8
        assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["dense", "mixture"])
@pytest.mark.parametrize("slots", [1, 4])
def test_packed_kernels_give_the_tokens_of_stock_llama_server(
    name: str, slots: int, tiny_model: TinyModel, tmp_path: Path
) -> None:
    make, file = MODELS[name]
    with both(make(file, tiny_model, tmp_path), slots, packed=True) as (plain, ours):
        assert ours.ready["kernels"] == "packed"
        assert together(ours) == together(plain)
