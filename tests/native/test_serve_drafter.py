"""A model that drafts for the server's: computed when it drafts, one budget, one idea of idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.drafted_answers import BY_MODEL, asked, write_small
from support.served import Served, serving

from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model

MIB = 1 << 20
LARGE = Shape(layers=8, width=1024, ffn=2816, heads=8, kv_heads=8, vocabulary=2000, head_size=128)
# While the model that drafts streams, every token that it drafts reads most of it.
SHORT: dict[str, Any] = {"n_predict": 10, "cache_prompt": False}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("drafter") / "target.gguf")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drafter")
    (path,) = write_model(LARGE, folder / "large.gguf", "q4_0", seed=5)
    return path


def answer(served: Served, prompt: list[int], **more: Any) -> list[int]:
    """The text with an answer of 40 tokens, or as many as `more` says."""
    tokens: list[int] = served.complete(**asked(prompt=prompt, **more))["tokens"]
    return prompt + tokens


def right(served: Served, prompt: list[int], **more: Any) -> float:
    """The share of drafted tokens that was right while an answer was written."""
    before = served.stats["drafts"]
    answer(served, prompt, **more)
    after = served.stats["drafts"]
    drafted = int(after["drafted"] - before["drafted"])
    assert drafted > 20
    return int(after["accepted"] - before["accepted"]) / drafted


def texts() -> Iterator[list[int]]:
    for first in (3, 40, 77):
        yield [first + number * 7 % 31 for number in range(90)]


@pytest.mark.parametrize("slots", [1, 2])
def test_it_knows_what_was_written_without_it(target: Path, slots: int) -> None:
    """A model drafts for itself: where it knows the same text, all that it writes is right."""
    one, other, third = texts()
    sizes = (target, "--ctx", 640, "--slots", slots, "--memory", "300MiB")
    with serving(*sizes, "--", "-md", target, *BY_MODEL) as served:
        assert right(served, one) > 0.7
        # While probabilities are asked for, nothing is drafted.
        one = answer(served, one, n_probs=2)
        assert right(served, one) > 0.7
        # Of what is drawn most drafts are wrong, and what was computed of them goes.
        drawn = answer(served, other, temperature=1.5)
        assert right(served, drawn) > 0.7
        # Prompts that no slot holds any more come back from a cache.
        assert right(served, third) > 0.7
        assert right(served, one) > 0.7
        assert right(served, drawn[:100]) > 0.7


def read_by(served: Served) -> int:
    """Bytes that the process read beside what the model that answers streamed."""
    counts = Path(f"/proc/{served.process.pid}/io").read_text().split()
    return int(counts[counts.index("rchar:") + 1]) - int(served.stats["read_bytes"])


def test_it_shares_a_budget_that_changes_and_what_is_given_back(target: Path, large: Path) -> None:
    sizes = (target, "--ctx", 640, "--slots", 1, "--memory", "260MiB")
    with serving(*sizes, "--", "-md", large, *BY_MODEL) as served:
        (text, *_) = texts()
        expected, held = answer(served, text, **SHORT), served.stats["memory"]["draft"]
        assert held > large.stat().st_size
        least = served.get("/engine/plan")[1]["server"]["memory"]["least"]
        assert least < 260 * MIB - large.stat().st_size // 2
        status, said = served.post("/engine/memory", {"memory": least + 8 * MIB})
        assert status == 200, said
        assert served.stats["memory"]["draft"] < held - large.stat().st_size // 2
        drafted = served.stats["drafts"]["drafted"]
        assert answer(served, text, **SHORT) == expected
        assert served.stats["drafts"]["drafted"] > drafted
        # It streams now; while nothing is drafted it does not.
        before = read_by(served)
        answer(served, text, n_probs=2, **SHORT)
        assert read_by(served) - before < large.stat().st_size // 4
        answer(served, text, **SHORT)
        assert read_by(served) - before > large.stat().st_size
        served.post("/engine/memory", {"memory": "260MiB"})
        assert served.stats["memory"]["draft"] == held
        answer(served, text, **SHORT)
        used = served.stats["memory"]["used"]
        assert served.post("/engine/release", {})[0] == 200
        assert served.stats["memory"]["used"] < used - large.stat().st_size // 2
        assert answer(served, text, **SHORT) == expected


def test_it_is_given_back_when_nobody_asks(target: Path, large: Path) -> None:
    sizes = (target, "--ctx", 640, "--slots", 1, "--memory", "260MiB", "--idle-release", "1s")
    with serving(*sizes, "--", "-md", large, *BY_MODEL) as served:
        answer(served, next(texts()))
        used, late = served.stats["memory"]["used"], time.monotonic() + 30
        while served.stats["memory"]["used"] > used - large.stat().st_size // 2:
            assert time.monotonic() < late
            time.sleep(0.1)
