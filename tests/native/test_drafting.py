"""Answers with drafts equal those without: text and logits, however drafts turn out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import LlamaGrammar, LogitsProcessorList
from support.architectures import tiny
from support.decoding import Logits
from support.drafted import draft_by_text
from support.rows import some_tokens
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.planning.expert_slots import Needs

GREEDY: dict[str, Any] = {"temp": 0.0}
SAMPLED: dict[str, Any] = {"temp": 0.9, "top_k": 50}
# From one multiple of 256 cells over the next.
PROMPT, TOKENS = 496, 32


def opened(path: Path, **options: Any) -> Llama:
    sizes = {"n_ctx": 640, "n_batch": 64, "n_ubatch": 64, "n_threads": 2, "n_threads_batch": 1}
    with Llama(str(path), weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        least = Needs.of(llm.plan.weights).least
    asked = {"flash_attn": True, "repack": False, "logits_all": True} | sizes | options
    return Llama(str(path), weight_memory=least, verbose=False, **asked)


def answered(llm: Llama, count: int = TOKENS, **sampling: Any) -> tuple[list[int], Logits]:
    """Tokens of an answer, and the bits of the logits of all that were computed for it."""
    llm.reset()
    llm.set_seed(11)
    answer = llm.generate(some_tokens(llm, PROMPT), **sampling)
    found = list(islice(answer, count))
    answer.close()
    return found, llm.scores[PROMPT : llm.n_tokens].copy().view(np.uint32)


def assert_the_same(llm: Llama, right: float, **sampling: Any) -> None:
    llm._draft_by(None)
    tokens, bits = answered(llm, **sampling)
    before = llm.stats.passes
    drafts = draft_by_text(llm, [*some_tokens(llm, PROMPT), *tokens], right)
    drafted, drafted_bits = answered(llm, **sampling)
    passes = llm.stats.passes - before
    llm._draft_by(None)
    assert drafted == tokens
    assert np.array_equal(drafted_bits, bits[: len(drafted_bits)])
    assert len(drafted_bits) == TOKENS - 1, "what was only proposed is forgotten"
    assert drafts.stats.drafted > TOKENS // 2
    assert (drafts.stats.accepted > 0) == (right > 0)
    if right == 1.0:
        assert passes < PROMPT // 64 + 2 + TOKENS // 4


@pytest.mark.parametrize("right", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("quant", ["q4_0", "q4_K", "f16"])
def test_right_mixed_and_wrong_drafts(
    tiny_model: TinyModel, quant: str, sampling: dict[str, Any], right: float
) -> None:
    with opened(tiny_model("tiny-llama", quant)) as llm:
        assert_the_same(llm, right, **sampling)


@pytest.mark.parametrize("options", [{"repack": True}, {"flash_attn": False}])
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-moe"])
def test_packed_and_without_flash_attention(
    tiny_model: TinyModel, preset: str, options: dict[str, Any]
) -> None:
    with opened(tiny_model(preset, "q4_K"), **options) as llm:
        assert_the_same(llm, 0.8, **SAMPLED)


def test_a_sliding_window(tmp_path: Path) -> None:
    path = tiny.write("gemma3-dense", tmp_path)
    with opened(path) as llm:
        assert_the_same(llm, 0.8, **GREEDY)
    with pytest.raises(UnsupportedError, match="takes cells of its cache back in another order"):
        opened(path, swa_full=False, draft="ngram")
    with opened(path, swa_full=False, draft="auto") as llm:
        assert llm.drafting is None


@pytest.mark.parametrize(
    "sampling",
    [
        {"mirostat_mode": 1, "mirostat_tau": 4.0},
        {"mirostat_mode": 2, "mirostat_tau": 4.0},
        {"repeat_penalty": 1.3, "temp": 0.7},
        {"frequency_penalty": 0.5, "presence_penalty": 0.5, "typical_p": 0.8},
    ],
)
def test_samplers_that_remember(tiny_model: TinyModel, sampling: dict[str, Any]) -> None:
    with opened(tiny_model("tiny-llama", "q4_K")) as llm:
        assert_the_same(llm, 0.8, **sampling)


def test_processors_see_the_tokens_before_the_one_they_choose(tiny_model: TinyModel) -> None:
    def process(tokens: Any, logits: Any) -> Any:
        seen.append(len(tokens))
        changed = np.copy(logits)
        changed[int(np.sum(tokens[-3:])) % len(logits)] += 5.0
        return changed

    with opened(tiny_model("tiny-llama", "q4_K")) as llm:
        seen: list[int] = []
        assert_the_same(llm, 0.9, **SAMPLED, logits_processor=LogitsProcessorList([process]))
    assert seen[:TOKENS] == seen[TOKENS:] == list(range(PROMPT, PROMPT + TOKENS))


def test_a_grammar(tiny_model: TinyModel) -> None:
    with opened(tiny_model("tiny-llama", "q4_K")) as llm:
        text = 'root ::= [a-z]+ ("," [a-z]+)*'
        texts: list[list[int]] = []
        for right in (None, 0.8):
            llm._draft_by(None)
            if right is not None:
                draft_by_text(llm, [*some_tokens(llm, PROMPT), *texts[0]], right)
            grammar = LlamaGrammar.from_string(text, verbose=False)
            texts.append(answered(llm, 30, **SAMPLED, grammar=grammar)[0])
        assert texts[0] == texts[1]


def test_the_cuts_are_needed(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Llama, "_keeping_rows", lambda self: contextlib.nullcontext())
    with (
        opened(tiny_model("tiny-llama", "f16")) as llm,
        pytest.raises(AssertionError),
    ):
        assert_the_same(llm, 1.0, **GREEDY)


def test_another_request_in_the_middle_of_a_draft(tiny_model: TinyModel) -> None:
    with opened(tiny_model("tiny-llama", "q4_K"), n_ctx=1024) as llm:
        tokens, _ = answered(llm, **SAMPLED)
        other = llm.create_completion(some_tokens(llm, 30, 5), max_tokens=5, temperature=0.0)
        draft_by_text(llm, [*some_tokens(llm, PROMPT), *tokens], 1.0)
        llm.reset()
        llm.set_seed(11)
        answer = llm.generate(some_tokens(llm, PROMPT), **SAMPLED)
        found = []
        for number, token in enumerate(answer, 1):
            found.append(token)
            if number in (5, 6, 20):
                again = llm.create_completion(
                    some_tokens(llm, 30, 5), max_tokens=5, temperature=0.0
                )
                assert again["choices"] == other["choices"]
            if number == TOKENS:
                break
        answer.close()
    assert found == tokens


def test_drafts_do_not_outgrow_the_context(tiny_model: TinyModel) -> None:
    with opened(tiny_model("tiny-llama", "q4_K"), n_ctx=512) as llm:
        answer = llm.generate(some_tokens(llm, PROMPT), **GREEDY)
        tokens = list(islice(answer, 16))
        answer.close()
        draft_by_text(llm, [*some_tokens(llm, PROMPT), *tokens, *some_tokens(llm, 20)], 1.0)
        llm.reset()
        answer = llm.generate(some_tokens(llm, PROMPT), **GREEDY)
        assert list(islice(answer, 16)) == tokens
        answer.close()


def test_tokens_cannot_be_sent_into_a_draft(tiny_model: TinyModel) -> None:
    with opened(tiny_model("tiny-llama", "q4_K"), draft="ngram") as llm:
        answer = llm.generate(some_tokens(llm, 20), **GREEDY)
        next(answer)
        with pytest.raises(RequestError, match="cannot be sent into an answer"):
            answer.send([3])


@pytest.fixture
def repeating(tiny_model: TinyModel) -> Iterator[tuple[Llama, list[int]]]:
    """A model asked to be drafted for from its own text, and a prompt that repeats itself."""
    with opened(tiny_model("tiny-llama", "q4_0"), draft="ngram", logits_all=False) as llm:
        yield llm, some_tokens(llm, 20) * 6


def test_from_what_was_written_before(repeating: tuple[Llama, list[int]]) -> None:
    llm, prompt = repeating
    answer = llm.generate(prompt, **GREEDY)
    first = list(islice(answer, 80))
    answer.close()
    assert llm.drafting is not None
    assert llm.drafting.drafted > 0
    assert llm.scores.shape[0] == llm.n_batch, "no logits of a whole context are kept"
    llm._draft_by(None)
    llm.reset()
    answer = llm.generate(prompt, **GREEDY)
    assert list(islice(answer, 80)) == first
    answer.close()


def test_models_that_cannot_be_drafted_for(tmp_path: Path) -> None:
    path = tiny.write("mamba-dense", tmp_path)
    options: dict[str, Any] = {"n_ctx": 64, "verbose": False, "weight_memory": "8MiB"}
    with pytest.raises(UnsupportedError, match="keeps a state from which no token"):
        Llama(str(path), draft="ngram", **options)
    with Llama(str(path), draft="auto", **options) as llm:
        assert llm.drafting is None
