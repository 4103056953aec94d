"""Models with an encoder, and batches that llama.cpp would end the process for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from support.architectures import tiny
from support.command import assert_one_sentence, flexinfer

from flexinfer import Llama
from flexinfer.bench.plain import plain_tokens
from flexinfer.chat.conversation import Conversation
from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.estimate import estimate_costs

_OPTIONS: dict[str, Any] = {"n_ctx": 64, "n_batch": 32, "n_ubatch": 32, "n_threads": 2}
_PROMPT = [5, 17, 101, 9, 44, 8, 61, 27]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with an encoder and a decoder, which says how an answer begins."""
    model = copy.deepcopy(tiny.models()["t5-dense"])
    model["metadata"]["*.decoder_start_token_id"] = ("UINT32", 1)
    return tiny.write_model(model, tmp_path_factory.mktemp("t5") / "t5.gguf")


def _open(path: Path, **options: Any) -> Llama:
    return Llama(str(path), weight_memory="8MiB", verbose=False, **{**_OPTIONS, **options})


def _greedy(llm: Llama, prompt: list[int], count: int) -> list[int]:
    tokens = llm.generate(prompt, temp=0.0)
    return [next(tokens) for _ in range(count)]


def test_an_encoder_reads_the_prompt_before_the_decoder_answers(t5: Path) -> None:
    other = [90, 3, 77]
    with _open(t5) as llm:
        answers = [_greedy(llm, prompt, 6) for prompt in (_PROMPT, other, _PROMPT)]
    sampling = {"temp": 0.0}
    plain = [plain_tokens(str(t5), prompt, 6, _OPTIONS, sampling) for prompt in (_PROMPT, other)]
    assert answers == [*plain, plain[0]]
    assert plain[0] != plain[1]


def test_a_decoder_does_not_run_before_its_encoder(t5: Path) -> None:
    with _open(t5) as llm:
        with pytest.raises(RequestError, match="encoder, which must read the prompt first"):
            llm.eval(_PROMPT)
        assert len(_greedy(llm, _PROMPT, 2)) == 2


def test_a_prompt_larger_than_the_encoders_batch(t5: Path) -> None:
    with _open(t5, n_ubatch=16) as llm:
        with pytest.raises(RequestError, match=r"reads 20 tokens at once.*n_ubatch=20"):
            next(llm.generate(list(range(1, 21))))
        assert len(_greedy(llm, _PROMPT, 2)) == 2


def test_a_model_that_names_no_start_of_an_answer(tmp_path: Path) -> None:
    path = tiny.write("t5-dense", tmp_path)
    with _open(path) as llm, pytest.raises(RequestError, match="decoder_start_token_id"):
        next(llm.generate(_PROMPT))


def test_the_plan_has_room_for_what_an_encoder_hands_out(t5: Path) -> None:
    with _open(t5) as llm:
        _greedy(llm, [5] * 32, 2)
        used, planned = llm.memory_use()["kv"], llm.plan.costs.kv
        assert 0.5 * planned < used <= planned
    estimated = estimate_costs(read_catalogue(t5))(64, 32).kv
    assert 0.8 * planned < estimated < 1.25 * planned


def test_a_refused_prompt_leaves_what_was_computed(t5: Path) -> None:
    with _open(t5) as llm:
        _greedy(llm, _PROMPT, 2)
        computed = llm.n_tokens
        with pytest.raises(RequestError, match="the prompt is empty"):
            next(llm.generate([]))
        with pytest.raises(RequestError, match="at once"):
            next(llm.generate([5] * 33))
        assert llm.n_tokens == computed > 0


def test_an_encoded_prompt_has_no_logprobs(t5: Path) -> None:
    with _open(t5, logits_all=True) as llm, pytest.raises(RequestError, match="logprobs"):
        llm.create_completion([5, 6, 7], max_tokens=2, logprobs=1)


def test_a_turn_that_an_encoder_cannot_take_is_not_kept(t5: Path) -> None:
    with _open(t5) as llm:
        conversation = Conversation(llm)
        conversation._tokenize = lambda text, start: [5] * len(text)  # type: ignore[method-assign, misc]
        with pytest.raises(RequestError, match="at once"):
            list(conversation.ask("a" * 40))
        assert conversation.messages == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bert-dense", "writes no text"),
        ("t5encoder-dense", "writes no text"),
        ("dream-dense", "writes by diffusion"),
    ],
)
def test_models_that_write_no_tokens(name: str, said: str, tmp_path: Path) -> None:
    path = tiny.write(name, tmp_path)
    assert_one_sentence(flexinfer("run", path, "-p", "a", "--weight-memory", "8MiB"), said)


def test_an_embedding_of_a_text_larger_than_the_batch(tmp_path: Path) -> None:
    path = tiny.write("bert-dense", tmp_path)
    with _open(path, n_ubatch=8, embedding=True, pooling_type=0) as llm:
        llm._batch.set_batch([*_PROMPT, 1], 0, True)
        with pytest.raises(RequestError, match="reads 9 tokens at once"):
            llm._ctx.decode(llm._batch)
        llm._batch.set_batch(_PROMPT, 0, True)
        llm._ctx.decode(llm._batch)


def test_a_batch_that_llama_cpp_refuses(t5: Path) -> None:
    with _open(t5) as llm:
        _greedy(llm, _PROMPT, 1)
        with pytest.raises(RequestError, match="the model has tokens 0 to"):
            llm.eval([llm.n_vocab() + 5])
