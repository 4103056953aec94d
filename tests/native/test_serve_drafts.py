"""Answers of the server whose tokens are drafted: the same ones, in one budget, and counted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from support.architectures import tiny
from support.drafted_answers import BY_MODEL, PROMPT, TOKENS, answered, asked, write_small
from support.quantised import quantised
from support.real_model import real_model
from support.served import serving
from support.tiny_model import TinyModel

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.serve.arguments import read_extra
from flexinfer.serve.forecasts import forecast_of
from flexinfer.serve.settings import Settings

DATA = Path(str(files("flexinfer") / "data"))
SIZES = ("--ctx", 640, "--ubatch", 64, "--threads", 2, "--slots", 1)
# Whatever followed a token before, which is often wrong.
BY_TEXT = (
    *("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", 1),
    *("--spec-ngram-simple-size-m", 6),
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("drafts") / "target.gguf")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same vocabulary, but what it writes is mostly wrong."""
    return write_small(tmp_path_factory.mktemp("drafts") / "stranger.gguf", "q4_0", seed=5)


MODELS: dict[str, Callable[[TinyModel, Path], Path]] = {
    "q4_0": lambda make, folder: make("tiny-llama", "q4_0"),
    "f16": lambda make, folder: make("tiny-llama", "f16"),
    "mixture": lambda make, folder: make("tiny-moe", "q6_K"),
    "mixed": lambda make, folder: quantised(make("tiny-llama", "f16"), "q4_K_M", folder),
    "sliding window": lambda make, folder: tiny.write("gemma3-dense", folder),
}


@pytest.mark.parametrize("name", MODELS)
def test_drafts_change_no_bit_of_any_kind(name: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    model = MODELS[name](tiny_model, tmp_path)
    sizes = (model, *SIZES, "--weight-memory", model.stat().st_size, "--repack")
    prompt = 200 if name == "sliding window" else PROMPT
    with serving(*sizes, "--", "--swa-full") as served:
        expected = answered(served, prompt)
        assert "drafts" not in served.stats
    with serving(*sizes, "--", "-md", model, *BY_MODEL) as served:
        assert answered(served, prompt) == expected
        drafts = served.stats["drafts"]
        # What is sampled is another token now and then.
        assert 0 < drafts["accepted"] < drafts["drafted"]
        assert drafts["tokens"] == drafts["passes"] + drafts["accepted"]


@pytest.mark.parametrize("repack", ["--repack", "--no-repack"])
def test_drafts_of_a_model_change_no_bit(target: Path, stranger: Path, repack: str) -> None:
    sizes = (target, *SIZES, "--memory", "300MiB", repack)
    with serving(*sizes) as served:
        expected = answered(served)
    rights = []
    for draft in (target, stranger):
        with serving(*sizes, "--", "-md", draft, *BY_MODEL) as served:
            assert answered(served) == expected
            stats = served.stats
        drafts, memory = stats["drafts"], stats["memory"]
        assert drafts["drafted"] > TOKENS
        rights.append(drafts["accepted"] / drafts["drafted"])
        assert memory["draft"] == drafts["bytes"] > draft.stat().st_size // 2
        assert memory["used"] <= memory["budget"]
    # Of its own greedy answer nearly all are right, of the sampled one few.
    assert rights[0] > 0.1 > rights[1]


def test_drafts_change_no_bit_of_a_real_model() -> None:
    model = real_model()
    if model is None:
        pytest.skip("the real model is not here; fetch it with: python -m support.real_model")
    sizes = (model, *SIZES, "--weight-memory", "100MiB", "--repack")
    over = 256 - TOKENS // 2
    with serving(*sizes, "--", "--swa-full") as served:
        expected = answered(served, over)
    with serving(*sizes, "--", "--swa-full", *BY_TEXT) as served:
        assert answered(served, over) == expected
        drafts = served.stats["drafts"]
    assert 0 < drafts["accepted"] < drafts["drafted"]


def test_probabilities_are_told_of_each_token(target: Path) -> None:
    """llama.cpp has none for tokens of a draft, so nothing is drafted meanwhile."""
    with serving(target, *SIZES, "--memory", "300MiB", "--", "-md", target, *BY_MODEL) as served:
        answer = served.complete(**asked(n_probs=3))
        told = answer["completion_probabilities"]
        assert [len(token["top_logprobs"]) for token in told] == [3] * TOKENS
        assert served.stats["drafts"]["drafted"] == 0
        served.complete(**asked())
        assert served.stats["drafts"]["drafted"] > 0


@pytest.mark.parametrize("slots", [1, 4])
def test_how_many_follows_from_what_they_bring(target: Path, slots: int) -> None:
    sizes = ("--ctx", 640, "--slots", slots, "--memory", "400MiB", "--draft", target)
    with serving(target, *sizes) as served:
        answers = served.complete_together([asked() for _ in range(slots)])
        assert [len(answer["tokens"]) for answer in answers] == [TOKENS] * slots
        drafts = served.stats["drafts"]
        assert 0 < drafts["passes"] < slots * TOKENS
        assert drafts["tokens_per_pass"] == round(drafts["tokens"] / drafts["passes"], 3)
        _, _, metrics = served.request("GET", "/metrics")
        for name in ("drafted_tokens_total", "accepted_tokens_total", "tokens_per_pass"):
            assert f"\nflexinfer_{name} ".encode() in metrics
        _, plan = served.get("/engine/plan")
        assert any("tokens drafted at a time by" in line for line in plan["server"]["said"])


def test_a_file_of_requests_is_answered_the_same(target: Path, tmp_path: Path) -> None:
    # None begins like another: what a slot held before is used again, and requests that wait may
    # overtake each other.
    body = {"max_tokens": 30, "temperature": 0}
    lines = [
        {
            "custom_id": f"r{n}",
            "method": "POST",
            "url": "/v1/completions",
            "body": body | {"prompt": asked()["prompt"][n : n + 60], "seed": n},
        }
        for n in range(3)
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = {}
    for draft in ("off", "ngram", target):
        out = tmp_path / f"{Path(draft).stem}.jsonl"
        sizes = ("--memory", "300MiB", "--slots", 1, "--ctx", 128, "--no-repack")
        done = flexinfer("batch", source, out, target, *sizes, "--draft", draft)
        assert done.returncode == 0, done.stderr
        records = sorted(
            map(json.loads, out.read_text().splitlines()), key=lambda r: r["custom_id"]
        )
        said[str(draft)] = [record["response"]["body"]["choices"][0]["text"] for record in records]
    assert len(said["off"]) == len(lines)
    assert said["ngram"] == said[str(target)] == said["off"]


@pytest.mark.parametrize(
    ("make", "arguments", "sentence"),
    [
        (
            "mamba2-dense",
            ["--draft", "ngram"],
            "keeps a state from which no token can be taken back",
        ),
        ("gemma3-dense", ["--draft", "mtp"], "has no trained head that drafts"),
        ("gemma3-dense", ["--", "--spec-type", "draft-mtp"], "has no trained head that drafts"),
        ("qwen35-dense", ["--draft", "mtp"], "keeps a state from which no token can be taken back"),
        ("gemma3-dense", ["--draft", DATA / "shakespeare.gguf"], "vocabulary"),
        ("gemma3-dense", ["--draft", "ngram", "--", "--spec-type", "none"], "both say who drafts"),
    ],
)
def test_what_cannot_be_drafted_is_refused_in_a_sentence(
    make: str, arguments: list[object], sentence: str, tmp_path: Path
) -> None:
    done = flexinfer("serve", tiny.write(make, tmp_path), "--port", 0, "--memory", "1G", *arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("slots", "flags"),
    [
        (3, ()),
        (2, ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-m", "15")),
        (2, ("--reranking",)),
    ],
)
def test_as_many_logits_are_planned_as_llama_cpp_keeps_room_for(
    slots: int, flags: tuple[str, ...], tiny_model: TinyModel
) -> None:
    model = tiny_model("tiny-wide", "q4_0")
    settings = Settings(1 << 30, slots=slots, threads=2, flags=read_extra(flags))
    expected = forecast_of(read_catalogue(model), settings).costs(slots * 256, 128)
    sizes = ("--slots", slots, "--ctx", 256, "--ubatch", 128, "--threads", 2, "--memory", "400MiB")
    with serving(model, *sizes, "--", *flags) as served:
        plan = served.get("/engine/plan")[1]
    assert plan["costs"]["kv"] == pytest.approx(expected.kv, rel=0.01)
    assert plan["costs"]["compute"] == pytest.approx(expected.compute, rel=0.35)


def test_a_model_that_is_only_named_drafts(target: Path) -> None:
    with serving(target, *SIZES, "--memory", "300MiB", "--", "-md", target) as served:
        served.complete(**asked())
        assert served.stats["drafts"]["accepted"] > 0


def test_a_budget_for_one_alone_is_refused(target: Path) -> None:
    words = ("serve", target, "--port", 0, "--ctx", 512, "--draft", target, "--memory")
    done = flexinfer(*words, "100MiB")
    assert done.returncode == 1
    assert "with a draft model beside it, the budget" in done.stderr
    assert "more for the server" in done.stderr


def flexinfer(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flexinfer", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
