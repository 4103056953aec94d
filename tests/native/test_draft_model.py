"""A second model drafts: the same answers, both within one budget, opened and closed together."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.architectures import tiny
from support.command import flexinfer
from support.decoding import Logits
from support.drafted import AlwaysSome
from support.rows import some_tokens
from support.tiny_model import TinyModel

from flexinfer import Llama, plan
from flexinfer.engine.process_ledger import process_ledger
from flexinfer.errors import BudgetError, EngineError, RequestError, UnsupportedError
from flexinfer.machine.machine import process_memory
from flexinfer.speculate.drafts import Drafts
from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model

MIB = 1 << 20
LARGE = Shape(layers=6, width=768, ffn=2048, heads=6, kv_heads=6, vocabulary=20000, head_size=128)
SMALL = Shape(layers=2, width=256, ffn=768, heads=4, kv_heads=4, vocabulary=20000, head_size=64)
SIZES: dict[str, Any] = {"n_ctx": 640, "n_batch": 64, "n_ubatch": 64, "verbose": False}
THREADS: dict[str, Any] = {"n_threads": 2, "n_threads_batch": 1, "flash_attn": True}
# Over a multiple of 256 cells, where attention is divided among threads.
PROMPT, TOKENS = 496, 32


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and one that writes the same tokens."""
    folder = tmp_path_factory.mktemp("models")
    (large,) = write_model(LARGE, folder / "large.gguf", "q4_K")
    (small,) = write_model(SMALL, folder / "small.gguf", "q4_0", seed=1)
    return large, small


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert process_ledger().used == 0


def answered(llm: Llama, **sampling: Any) -> tuple[list[int], Logits]:
    llm.reset()
    llm.set_seed(11)
    answer = llm.generate(some_tokens(llm, PROMPT), **sampling)
    found = list(islice(answer, TOKENS))
    answer.close()
    return found, llm.scores[PROMPT : PROMPT + TOKENS - 1].copy().view(np.uint32)


@pytest.mark.parametrize(
    ("drafted_by", "sampling"),
    [("itself", {"temp": 0.0}), ("another", {"temp": 0.0}), ("another", {"temp": 0.9})],
    ids=["right", "wrong", "sampled"],
)
@pytest.mark.parametrize("repack", [False, True])
def test_a_model_that_drafts_changes_no_bit(
    models: tuple[Path, Path], drafted_by: str, sampling: dict[str, Any], repack: bool
) -> None:
    large, small = models
    options = {**SIZES, **THREADS, "logits_all": True, "repack": repack, "weight_memory": "30MiB"}
    with Llama(str(large), **options) as llm:
        tokens, bits = answered(llm, **sampling)
    draft = str(large if drafted_by == "itself" else small)
    with Llama(str(large), draft=draft, **options) as llm:
        assert isinstance(llm._drafts, Drafts)
        llm._drafts.policy = AlwaysSome(15)
        drafted, drafted_bits = answered(llm, **sampling)
        stats = llm.drafting
    assert drafted == tokens
    assert np.array_equal(drafted_bits, bits)
    assert stats is not None
    assert stats.drafted > TOKENS // 2
    if drafted_by == "itself":
        assert stats.accepted > 0.7 * stats.drafted
        assert stats.passes < TOKENS // 2


@pytest.mark.own_process
def test_one_budget_holds_both(models: tuple[Path, Path]) -> None:
    large, small = models
    least = process_memory() + 100 * MIB
    with Llama(str(large), draft=str(small), memory=least, **SIZES, **THREADS) as llm:

        def written() -> Any:
            # Else the last token of the prompt is computed alone.
            llm.reset()
            prompt = some_tokens(llm, 40)
            return llm.create_completion(prompt, max_tokens=30, temperature=0.0)["choices"]

        first = written()
        for memory in (least, least + 200 * MIB, least - 10 * MIB):
            llm.memory = memory
            use, ledger = llm.memory_use(), llm._ledger
            assert use["draft"] > small.stat().st_size // 2
            assert ledger.used <= memory == ledger.limit == use["budget"]
            assert llm.plan.resident == (memory > least + 100 * MIB)
            assert written() == first
        llm.release()
        assert written() == first
        held = llm.memory_use()["draft"], llm.plan.held_bytes
        # It holds the draft, which shrinks first, but then not the model; or neither of them.
        for refused in (process_memory() - 40 * MIB, 60 * MIB):
            with pytest.raises(BudgetError):
                llm.memory = refused
            assert llm.memory == least - 10 * MIB
            assert (llm.memory_use()["draft"], llm.plan.held_bytes) == held
        assert written() == first


def test_a_budget_for_one_alone_is_refused(models: tuple[Path, Path]) -> None:
    large, small = models
    with Llama(str(large), weight_memory="200KiB", **SIZES):
        pass
    with pytest.raises(BudgetError, match="with a draft model beside it"):
        Llama(str(large), draft=str(small), weight_memory="200KiB", **SIZES)


def test_a_command_keeps_the_budget_and_its_plan(models: tuple[Path, Path]) -> None:
    large, small = models
    engine = ["--draft", str(small), "--memory", "150MiB", "--ctx", "512", "--threads", "2"]
    words = ["-p", "aba " * 30, "-n", "60", "--temp", "0", "--json"]
    document = json.loads(flexinfer("run", str(large), *engine, *words).stdout)
    plain = json.loads(flexinfer("run", str(large), *engine[2:], *words).stdout)
    assert document["text"] == plain["text"]
    assert document["drafts"]["drafted"] > 0
    assert document["memory"]["peak"] <= 150 * MIB
    assert document["memory"]["draft"] > small.stat().st_size // 2
    batch = document["ubatch"]["asked"]
    sizes = {"n_ctx": 512, "n_batch": batch, "n_ubatch": batch, "n_threads": 2}
    foretold = plan(large, draft=str(small), memory="150MiB", flash_attn=None, **sizes)
    held = document["memory"]["locked"] + document["memory"]["window"]
    assert held == pytest.approx(foretold.held_bytes, abs=12 * MIB)


def refused(large: Path, draft: Path, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        Llama(str(large), draft=str(draft), weight_memory="30MiB", **SIZES)


def test_what_cannot_draft(
    models: tuple[Path, Path], tiny_model: TinyModel, tmp_path: Path
) -> None:
    large, _ = models
    refused(large, tiny_model("tiny-llama"), RequestError, "vocabulary has 2048 tokens, not 20000")
    refused(large, tmp_path / "none.gguf", FileNotFoundError, "none.gguf")
    mamba = tiny.write("mamba-dense", tmp_path)
    with pytest.raises(UnsupportedError, match="so it cannot draft; give another model"):
        Llama(str(mamba), draft=str(mamba), weight_memory="30MiB", **SIZES)


def in_the_middle(llm: Llama, act: Callable[[], object]) -> list[BaseException]:
    """What an answer of another thread ends with when `act` comes in between."""
    found: list[BaseException] = []
    some = threading.Event()

    def answer() -> None:
        try:
            for number, _ in enumerate(llm.generate(some_tokens(llm, 40), temp=0.0)):
                if number == 3:
                    some.set()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    assert some.wait(60)
    act()
    thread.join(60)
    assert not thread.is_alive()
    return found


def test_closing_ends_both(models: tuple[Path, Path]) -> None:
    large, small = models
    llm = Llama(str(large), draft=str(small), weight_memory="30MiB", **SIZES)
    (error,) = in_the_middle(llm, llm.close)
    assert isinstance(error, EngineError)
    with pytest.raises(EngineError, match="closed"):
        llm.create_completion("a", max_tokens=1)


def test_the_same_draft_after_another_text(models: tuple[Path, Path]) -> None:
    large, small = models
    with Llama(str(large), draft=str(small), weight_memory="30MiB", **SIZES, **THREADS) as llm:
        texts = [some_tokens(llm, 40, start) for start in (0, 11)]
        firsts = [llm.create_completion(t, max_tokens=20, temperature=0.0) for t in texts]
        for text, first in zip(texts, firsts, strict=True):
            again = llm.create_completion(text, max_tokens=20, temperature=0.0)
            assert again["choices"] == first["choices"]
