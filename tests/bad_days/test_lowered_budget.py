"""A budget that is lowered while a model is open is kept from then on, as seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commanded import Commanded, commanded
from support.sampled import sampling

from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model

MIB = 1 << 20
OPTIONS: dict[str, Any] = {"memory": "240MiB", "n_ctx": 512, "n_batch": 128, "n_threads": 2}
# 110 to 140 MB each: most of the budgets below is weights, in many parts.
DENSE = Shape(16, 512, 2048, 8, 2, 4096, 64, context=2048)
SHAPES = {
    "dense": (DENSE, "f16"),
    "packed": (replace(DENSE, layers=20, width=768, ffn=3072), "q4_0"),
    "experts": (
        Shape(
            12, 512, 512, 8, 2, 4096, 64, experts=16, experts_used=4, qk_norm=True, embedding=8.0
        ),
        "q4_0",
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each kind."""
    folder = tmp_path_factory.mktemp("lowered")
    for name, (shape, quantisation) in SHAPES.items():
        write_model(shape, folder / f"{name}.gguf", quantisation)
    return folder


@pytest.fixture(params=[(name, repack) for name in SHAPES for repack in (False, True)])
def child(request: pytest.FixtureRequest, models: Path) -> Iterator[Commanded]:
    """A model of each kind whose weights were all read, with both sets of kernels."""
    name, repack = request.param
    if repack and name == "dense":
        pytest.skip("f16 is not packed")
    with opened(models / f"{name}.gguf", repack=repack) as child:
        yield child


@contextmanager
def opened(model: Path, **options: Any) -> Iterator[Commanded]:
    with commanded(model, **OPTIONS, **options) as child:
        child.ask("answer", 300, 4)
        yield child


@contextmanager
def kept(child: Commanded, mebibytes: int) -> Iterator[None]:
    """Looks from outside until the end, from now on."""
    with sampling(child.pid) as seen:
        yield
    assert seen.samples > 3
    assert seen.peak <= mebibytes * MIB, f"{seen.peak / MIB:.1f} of {mebibytes} MiB"


def lower(child: Commanded, mebibytes: int) -> None:
    assert child.ask("memory", f"{mebibytes}MiB") == mebibytes * MIB


def answers(child: Commanded) -> list[list[int]]:
    """A pass, and more of them: short and long prompts."""
    return [child.ask("answer", prompt, 4) for prompt in (1, 300)]


def test_lowered_once_twice_and_after_it_was_raised(child: Commanded) -> None:
    expected = answers(child)
    for budget in (130, 110, 200, 105):
        lower(child, budget)
        with kept(child, budget):
            assert answers(child) == expected
    assert child.ask("streamed") > 0


def test_lowered_after_a_release(child: Commanded) -> None:
    expected = answers(child)
    child.ask("release")
    lower(child, 120)
    with kept(child, 120):
        assert answers(child) == expected
        child.ask("release")
        assert answers(child) == expected


def test_lowered_by_another_thread_during_an_answer(child: Commanded) -> None:
    for budget in (150, 120):
        before = child.ask("passes")
        child.ask("answer_beside", 100, 60)
        while child.ask("passes") < before + 3:
            pass
        lower(child, budget)
        with kept(child, budget):
            assert child.ask("passes") < before + 60
            child.ask("joined")


def test_lowered_in_many_small_steps(models: Path) -> None:
    """Each leaves other parts where they were."""
    with opened(models / "dense.gguf") as child:
        expected = answers(child)
        for budget in range(220, 100, -11):
            lower(child, budget)
            with kept(child, budget):
                assert child.ask("answer", 1, 4) == expected[0]


def test_what_the_program_holds_itself_is_part_of_a_new_budget(models: Path) -> None:
    with opened(models / "dense.gguf") as child:
        expected = answers(child)
        child.ask("hoard", 60 * MIB)
        lower(child, 150)
        with kept(child, 150):
            assert answers(child) == expected
        streamed = child.ask("streamed")
        child.ask("hoard", 0)
        lower(child, 150)
        with kept(child, 150):
            assert answers(child) == expected
        assert child.ask("streamed") < streamed
