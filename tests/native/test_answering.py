"""One answer from prompt to text: what ends it, and what is left of one that was abandoned."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.bench.plain import plain_tokens
from flexinfer.chat.answering import Answer
from flexinfer.errors import RequestError

_PROMPT = "hello there"
_OPTIONS: dict[str, Any] = {"n_ctx": 256, "n_batch": 64, "n_threads": 1, "verbose": False}


def _with_turn_end(model: Path, token: int, path: Path) -> Path:
    """A copy of `model` in which `token` ends a turn; no token of its own ends a text."""
    content, key = bytearray(model.read_bytes()), b"tokenizer.ggml.eos_token_id"
    at = content.index(key)
    content[at : at + len(key)] = key.replace(b"eos", b"eot")
    struct.pack_into("<I", content, at + len(key) + 4, token)
    path.write_bytes(content)
    return path


@pytest.fixture
def llm(tiny_model: TinyModel) -> Iterator[Llama]:
    with Llama(str(tiny_model("tiny-llama", "q8_0")), weight_memory="1MiB", **_OPTIONS) as llm:
        yield llm


def _prompt(llm: Llama) -> list[int]:
    return [int(token) for token in llm.tokenize(_PROMPT.encode())]


def test_every_token_that_ends_a_generation_ends_an_answer(
    llm: Llama, tiny_model: TinyModel, tmp_path: Path
) -> None:
    prompt = _prompt(llm)
    answer = Answer(llm, prompt, 8, temp=0.0)
    assert "".join(answer) == answer.text
    made = answer.tokens
    assert len(made) == 8
    end = next(token for token in made[2:] if token not in made[:2])
    expected = made[: made.index(end)]
    path = _with_turn_end(tiny_model("tiny-llama", "q8_0"), end, tmp_path / "turns.gguf")

    with Llama(str(path), weight_memory="1MiB", **_OPTIONS) as turns:
        again = Answer(turns, prompt, 8, temp=0.0)
        assert "".join(again) == again.text
        assert again.tokens == expected
    options = {key: value for key, value in _OPTIONS.items() if key != "verbose"}
    assert plain_tokens(str(path), prompt, 8, options, {"temp": 0.0}) == expected

    command = [sys.executable, "-m", "flexinfer", "run", str(path), "-p", _PROMPT, "-n", "8"]
    command += ["--temp", "0", "--weight-memory", "1MiB", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["token_ids"] == expected


def test_a_limit_computes_nothing_beyond(llm: Llama) -> None:
    before = llm.stats.passes
    answer = Answer(llm, _prompt(llm), 3, temp=0.0)
    assert repr(answer) == "<Answer 0 of at most 3 tokens>"
    for _ in answer:
        pass
    assert repr(answer) == "<Answer 3 of at most 3 tokens>"
    assert llm.stats.passes - before == 3


def test_an_abandoned_answer_keeps_what_came(llm: Llama) -> None:
    answer = Answer(llm, _prompt(llm), 8, temp=0.0)
    pieces = iter(answer)
    begun = next(pieces) + next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert answer.text == begun
    assert len(answer.tokens) == 2


def test_a_stop_text_ends_it(llm: Llama) -> None:
    whole = Answer(llm, _prompt(llm), 8, temp=0.0)
    text = "".join(whole)
    stop = text[len(text) // 2 :][:1]
    stopped = Answer(llm, _prompt(llm), 8, [stop], temp=0.0)
    assert "".join(stopped) == text[: text.index(stop)]
    assert len(stopped.tokens) < 8


def test_a_prompt_that_fills_the_context_is_refused(llm: Llama) -> None:
    with pytest.raises(RequestError, match="256 tokens but the context only 256"):
        Answer(llm, [5] * 256)
    assert llm.stats.passes == 0
