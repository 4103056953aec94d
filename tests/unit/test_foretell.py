"""What is foretold from a header: the plan, what commands ask for, and what is refused."""

from __future__ import annotations

import inspect
import math
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.tiny_model import TinyModel

import flexinfer
from flexinfer.cli.plan import command
from flexinfer.cli.sizes import chat_sizes, run_sizes
from flexinfer.errors import BudgetError, FlexInferError, RequestError, UnsupportedError
from flexinfer.foretell import Arguments, Sizes, require_fit
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.machine.machine import Machine
from flexinfer.planning.plan import Plan

MIB = 1 << 20


def test_a_plan_is_frozen_and_keeps_the_words(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-wide")
    plan = flexinfer.plan(path, memory="80MiB", n_ctx=300, n_ubatch=700, strategy="sync")
    assert isinstance(plan, Plan)
    request = plan.request
    assert (request.budget, request.ctx, request.min_ctx) == (80 * MIB, 300, 300)
    # A micro-batch is no larger than the batch, which is no larger than the context.
    assert request.ubatch == 300
    assert flexinfer.plan(path, memory="80MiB", n_batch=40).request.ubatch == 40
    assert (request.strategy, request.weight_memory, request.window) == ("sync", None, None)
    assert flexinfer.plan(read_catalogue(path), memory="80MiB", n_ctx=300).ctx == 300
    with pytest.raises(AttributeError):
        plan.ctx = 1  # type: ignore[misc]


def test_the_default_budget_is_the_machines(tiny_model: TinyModel) -> None:
    machine = Machine.detect()
    for memory in (None, "auto"):
        budget = flexinfer.plan(tiny_model("tiny-llama"), memory=memory).request.budget
        assert budget == pytest.approx(machine.default_budget, rel=0.2)


def test_a_context_of_zero_is_the_models_own(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-llama")
    trained = read_catalogue(path).parameter("context_length")
    assert flexinfer.plan(path, memory="1GiB", n_ctx=0).ctx == trained != 512


def test_what_costs_more_leaves_less_for_weights(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-wide")

    def total(**words: Any) -> int:
        return flexinfer.plan(path, memory="400MiB", **words).costs.total

    base = total()
    assert total(n_ctx=2048) > base
    assert total(type_k=8) < base
    assert total(type_k=8, type_v=8, flash_attn=True) < total(type_k=8)
    assert total(flash_attn=None) == total(flash_attn=True) < base
    rows = 32000 * 4
    assert total(logits_all=True) == base + rows * (512 + 512)
    assert total(logits_all=True, n_batch=64, n_ubatch=64) == total(
        n_batch=64, n_ubatch=64
    ) + rows * (512 + 64)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"strategy": "magic"}, "there is no strategy 'magic'"),
        ({"type_k": 24}, "no KV cache of type 24"),
        ({"type_v": 8}, "type q8_0 need flash attention"),
    ],
)
def test_what_opening_would_refuse(
    tiny_model: TinyModel, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        flexinfer.plan(tiny_model("tiny-llama"), memory="1GiB", **words)


def test_too_small_a_budget_has_the_arithmetic(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-llama")
    with pytest.raises(BudgetError, match="the smallest that would do"):
        flexinfer.plan(path, memory="1MiB")
    with pytest.raises(BudgetError, match="the smallest that would do"):
        require_fit(read_catalogue(path), Arguments(memory="1MiB"))


def test_the_function_and_the_arguments_have_the_same_words() -> None:
    words = set(inspect.signature(flexinfer.plan).parameters) - {"model"}
    names = {field.name for field in fields(Arguments)} | {field.name for field in fields(Sizes)}
    assert words == names - {"sizes"}


@pytest.fixture
def foreign(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A model of an architecture that nobody has."""
    content = tiny_model("tiny-llama").read_bytes()
    name = struct.pack("<Q", 5) + b"llama"
    # The first is the architecture, a later one the kind of the vocabulary.
    path = tmp_path / "foreign.gguf"
    path.write_bytes(content.replace(name, struct.pack("<Q", 5) + b"lhama", 1))
    return path


def test_an_architecture_that_llama_cpp_does_not_have_is_named(foreign: Path) -> None:
    with pytest.raises(UnsupportedError, match="does not have the architecture lhama"):
        flexinfer.plan(foreign)
    with pytest.raises(UnsupportedError, match="lhama"):
        require_fit(read_catalogue(foreign), Arguments())
    for words in ([str(foreign)], [str(foreign), "--json"]):
        error = CliRunner().invoke(command, words).exception
        assert isinstance(error, UnsupportedError)
        assert "lhama" in str(error)


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ((2, 128), Sizes(256, 32, 32)),
        ((200, 128), Sizes(512, 256, 256)),
        ((2000, 48), Sizes(2048, 512, 512, 2048)),
        ((2000, 1000), Sizes(3072, 512, 512, 2128)),
        ((200, 128, 4096), Sizes(4096, 256, 256)),
        ((200, 128, None, 64), Sizes(512, 200, 64)),
    ],
)
def test_run_asks_for_what_prompt_and_answer_need(words: tuple[Any, ...], sizes: Sizes) -> None:
    assert run_sizes(*words) == sizes


def test_run_refuses_a_prompt_beyond_the_context() -> None:
    with pytest.raises(RequestError, match="70 tokens but the context only 64; give --ctx 198"):
        run_sizes(70, 128, 64)


def test_chat_halves_the_context_until_half_of_the_budget_holds_it(tiny_model: TinyModel) -> None:
    catalogue = read_catalogue(tiny_model("tiny-llama"))
    assert chat_sizes(catalogue, Arguments(memory="1GiB")).n_ctx == min(
        4096, catalogue.parameter("context_length")
    )
    assert chat_sizes(catalogue, Arguments(memory="1KiB")) == Sizes(512, 128, 128)
    assert chat_sizes(catalogue, Arguments(memory="1KiB"), 100, 16) == Sizes(100, 128, 16)


@pytest.mark.parametrize(
    "size",
    [{"n_ctx": -5}, {"n_batch": 0}, {"n_ubatch": 2**31}, {"min_ctx": "x"}, {"n_ctx": None}],
)
def test_a_plan_refuses_what_is_no_number_of_tokens(
    tiny_model: TinyModel, size: dict[str, Any]
) -> None:
    (name,) = size
    with pytest.raises(RequestError, match=f"^{name} is .*; give a (whole )?number"):
        flexinfer.plan(tiny_model("tiny-llama"), **size)


_ODD: list[Any] = [None, 5.5, -1, 2**70, math.nan, "a\0b", b"x", [1], {}, {"x": 1}, object()]


@pytest.mark.parametrize("name", sorted(inspect.signature(flexinfer.plan).parameters))
def test_whatever_a_plan_is_given_it_is_taken_or_refused_in_one_sentence(
    tiny_model: TinyModel, name: str
) -> None:
    sound = {"model": tiny_model("tiny-llama"), "memory": "1GiB"}
    refused = []
    for odd in _ODD:
        try:
            flexinfer.plan(**{**sound, name: odd})
        except FlexInferError as error:
            refused.append(str(error))
    assert refused
    assert all(len(said.splitlines()) == 1 for said in refused)


@pytest.mark.parametrize("model", [None, 5, ["x"]])
def test_what_is_no_path_is_no_model(model: Any) -> None:
    with pytest.raises(RequestError, match=r"^model is .*; give a path$"):
        flexinfer.plan(model)


def test_a_plan_takes_no_ubatch_for_the_batch(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-llama")
    # The default budget is what the machine can spare at that moment.
    assert flexinfer.plan(path, memory="1GiB", n_ubatch=0) == flexinfer.plan(path, memory="1GiB")
