"""A server's memory, looked at from outside: never above its budget, also where that is changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.sampled import sampling
from support.served import Served, events, serving

from flexinfer.bench.limits import limited
from flexinfer.errors import UnsupportedError
from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model

MIB = 1 << 20
CONTEXT = 512
SHORT = 40
# 130 MB in f16: most of each budget below is weights.
SHAPE = Shape(16, 512, 2048, 8, 2, 4096, 64, context=2048)
_SIZES = ("--spec-ngram-simple-size-n", 3, "--spec-ngram-simple-size-m", 15)
BY_TEXT = ("--spec-type", "ngram-simple", *_SIZES)
LARGE = Shape(8, 512, 2048, 8, 2, 32000, 64, context=2048)
SMALL = Shape(2, 256, 512, 4, 2, 32000, 64, context=2048)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("budget") / "model.gguf"
    write_model(SHAPE, path, "f16")
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose logits are large beside its layers, and one that drafts for it."""
    folder = tmp_path_factory.mktemp("wide")
    for name, shape, quant in (("large", LARGE, "f16"), ("small", SMALL, "q4_0")):
        write_model(shape, folder / f"{name}.gguf", quant)
    return folder / "large.gguf", folder / "small.gguf"


@contextmanager
def in_group(model: Path, budget: int, slots: int, *options: object) -> Iterator[Served]:
    """A server in a group that holds its budget and no more, and is never killed for it."""
    sizes = ("--memory", f"{budget}MiB", "--slots", slots, "--ctx", CONTEXT)
    try:
        with (
            limited(memory=budget * MIB) as group,
            group.watch(0.005) as seen,
            serving(model, *sizes, *options, group=group) as served,
        ):
            yield served
            assert group.oom_kills == 0
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert seen.samples > 20
    assert seen.peak <= budget * MIB


@contextmanager
def kept(served: Served, mebibytes: int) -> Iterator[None]:
    """Looks from outside until the end, from now on."""
    with sampling(served.process.pid) as seen:
        yield
    assert seen.samples > 3
    assert seen.peak <= mebibytes * MIB, f"{seen.peak / MIB:.1f} of {mebibytes} MiB"


def wish(number: int, length: int = CONTEXT - 20) -> dict[str, Any]:
    """A prompt unlike all others, which nearly fills its slot or is short; some probabilities."""
    chosen = random.Random(number)
    prompt = [chosen.randrange(5, 4000) for _ in range(length)]
    return {"prompt": prompt, "n_predict": 8, "n_probs": 10 * (number % 2), "ignore_eos": True}


def fill(served: Served, slots: int) -> None:
    """Every slot filled, which it stays: then `ask` of it costs little."""
    bodies = [wish(number) for number in range(slots)]
    assert len({answer["id_slot"] for answer in served.complete_together(bodies)}) == slots


def ask(served: Served, slots: int, first: int) -> None:
    """More requests than slots, all at once, two of them long, and one whose client leaves."""
    with ThreadPoolExecutor(slots + 2) as pool:
        answers = [
            pool.submit(served.complete, **wish(number, SHORT))
            for number in range(first, first + slots)
        ]
        answers += [pool.submit(served.complete, **wish(first + 90 + number)) for number in (1, 2)]
        with served.stream("/completion", wish(first + 99)) as leaving:
            next(events(leaving))
        for answer in answers:
            assert answer.result()["tokens_predicted"] == 8


def lower(served: Served, mebibytes: int) -> None:
    status, answer = served.post("/engine/memory", {"memory": f"{mebibytes}MiB"})
    assert (status, answer.get("memory")) == (200, mebibytes * MIB), answer


@pytest.mark.parametrize(
    ("slots", "budgets"), [(1, (220, 170, 150, 200, 145)), (8, (260, 210, 190, 230, 185))]
)
def test_each_budget_is_kept_from_the_answer_on(
    model: Path, slots: int, budgets: tuple[int, ...]
) -> None:
    with in_group(model, budgets[0], slots) as served:
        fill(served, slots)
        for number, budget in enumerate(budgets[1:]):
            lower(served, budget)
            with kept(served, budget):
                ask(served, slots, first=100 * (number + 1))
            assert served.stats["memory"]["budget"] == budget * MIB
        assert served.get("/engine/plan")[1]["streamed_bytes"] > 0
        status, answer = served.post("/engine/memory", {"memory": "40MiB"})
        assert status == 400
        assert "give a larger memory budget" in answer["error"]["message"]
        with kept(served, budgets[-1]):
            ask(served, slots, first=900)


def test_a_budget_is_lowered_while_answers_are_under_way(model: Path) -> None:
    with in_group(model, 240, 4) as served, ThreadPoolExecutor(6) as pool:
        fill(served, 4)
        answers = [
            pool.submit(served.complete, **wish(number) | {"n_predict": 15}) for number in range(6)
        ]
        before = served.stats["passes"]
        while served.stats["passes"] < before + 2:
            pass
        lower(served, 180)
        with kept(served, 180):
            for answer in answers:
                assert answer.result()["tokens_predicted"] == 15


def test_a_budget_is_lowered_while_the_weights_are_given_back(model: Path) -> None:
    with in_group(model, 220, 1) as served:
        expected = served.complete(prompt=[3, 9], n_predict=8, temperature=0)["content"]
        assert served.post("/engine/release", {}) == (200, {"released": True})
        lower(served, 150)
        with kept(served, 150):
            answer = served.complete(prompt=[3, 9], n_predict=8, temperature=0)
            assert answer["content"] == expected
            ask(served, 1, first=100)


def test_a_budget_beyond_the_group_is_held_below_it(model: Path) -> None:
    with in_group(model, 160, 2) as served:
        fill(served, 2)
        status, answer = served.post("/engine/memory", {"memory": "260MiB"})
        assert status == 200, answer
        assert answer["memory"] <= 160 * MIB
        ask(served, 2, first=100)


@pytest.mark.parametrize(("slots", "budget", "by_model"), [(1, 190, True), (4, 205, False)])
def test_drafts_are_within_the_budget(
    wide: tuple[Path, Path], slots: int, budget: int, by_model: bool
) -> None:
    model, small = wide
    drafting = ("-md", small, "--spec-draft-p-min", 0) if by_model else BY_TEXT
    with in_group(model, budget, slots, "--ubatch", 256, "--", *drafting) as served:
        plan = served.get("/engine/plan")[1]
        assert plan["streamed_bytes"] > 0
        # Of a batch only those tokens have logits that are written or drafted.
        assert plan["ubatch"] == 256
        assert plan["costs"]["compute"] < 256 * 4 * LARGE.vocabulary // 2
        # What is written are three tokens that come again, whatever the model knows.
        biased = [[token, 100.0] for token in (5, 6, 7)]
        told = {"n_predict": 40, "n_probs": 0, "logit_bias": biased, "seed": 3}
        wishes = [wish(slot, CONTEXT - 80) | told for slot in range(slots)]
        served.complete_together(wishes)
        assert served.stats["drafts"]["drafted"] > 20
        assert served.stats["memory"]["used"] <= budget * MIB
