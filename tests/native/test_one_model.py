"""One model that is closed, closes, is shared or was forked: each method answers or refuses."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import LogitsProcessorList
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from support import methods
from support.api_calls import OPTIONS
from support.forked import in_child
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import BudgetError, EngineError, RequestError
from flexinfer.machine.machine import process_memory
from flexinfer.native.device import aborts, device

_VICTIM = Path(__file__).parents[1] / "support" / "victims" / "methods.py"
_GREEDY: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0}
_PROMPTS = ("one two", "three four five", "six")


@pytest.fixture(scope="module")
def path(tiny_model: TinyModel) -> str:
    return str(tiny_model("tiny-llama", "q4_0"))


@pytest.fixture
def llm(path: str) -> Iterator[Llama]:
    with Llama(path, **OPTIONS) as llm:
        yield llm


@pytest.mark.parametrize("how", ["closed", "closing", "shared", "forked"])
def test_every_public_method(path: str, tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, str(_VICTIM), path, how, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(map(json.loads, done.stdout.splitlines()))
    assert list(found) == list(methods.names())
    assert len(found) > 35
    for name, ended in found.items():
        if how == "shared":
            alone = _missing_package(name) or {"answered"}
            assert (len(ended), set(ended)) == (10, alone), name
        elif how == "forked":
            assert 'start processes by the method "spawn"' in ended[0], name
            assert ended[1] == "exit code 0", name
        else:
            assert len(ended) == 1, name
            assert ended[0].startswith("EngineError: the model "), name
            assert "closed" in ended[0], name


def _missing_package(name: str) -> set[str]:
    """The parent asks for a package that need not be there."""
    return {
        "ImportError: To use create_chat_completion_openai_v1, you must install the openai "
        "package.You can install it with `pip install openai`."
        for name in [name]
        if name.endswith("_openai_v1") and not _has_openai()
    }


def _has_openai() -> bool:
    from importlib.util import find_spec

    return find_spec("openai") is not None


def _text(llm: Llama, prompt: str) -> str:
    return str(llm(prompt, **_GREEDY)["choices"][0]["text"])


def _alone(path: str, **options: Any) -> list[str]:
    """Each prompt's answer from a model that was asked nothing else."""
    found = []
    for prompt in _PROMPTS:
        with Llama(path, **OPTIONS, **options) as llm:
            found.append(_text(llm, prompt))
    return found


def test_threads_take_turns(path: str, llm: Llama) -> None:
    expected = _alone(path)
    found: dict[str, set[str]] = {prompt: set() for prompt in _PROMPTS}

    def ask(prompt: str, streams: bool) -> None:
        for _ in range(4):
            parts = llm(prompt, **_GREEDY, stream=True) if streams else [llm(prompt, **_GREEDY)]
            found[prompt].add("".join(part["choices"][0]["text"] for part in parts))

    threads = [
        threading.Thread(target=ask, args=(prompt, streams))
        for prompt in _PROMPTS
        for streams in (False, True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[prompt] for prompt in _PROMPTS] == [{text} for text in expected]


@pytest.mark.parametrize("logits_all", [False, True])
def test_streams_that_are_read_in_turns_do_not_mix(path: str, logits_all: bool) -> None:
    expected = _alone(path, logits_all=logits_all)
    with Llama(path, **OPTIONS, logits_all=logits_all) as llm:
        streams = [llm(prompt, **_GREEDY, stream=True) for prompt in _PROMPTS]
        texts = ["", "", ""]
        for parts in zip_longest(*streams):
            for number, part in enumerate(parts):
                texts[number] += part["choices"][0]["text"] if part else ""
        assert texts == expected
        assert llm._ledger.accounts.get("states", 0) == 0


def test_what_a_request_that_failed_computed_is_not_put_aside(path: str) -> None:
    with Llama(path, **OPTIONS) as llm:
        held = llm._ledger.accounts.get("states", 0)
        with pytest.raises(RequestError) as refused:
            llm(_PROMPTS[0], max_tokens=2, grammar="none")
        _text(llm, _PROMPTS[1])
        assert llm._ledger.accounts.get("states", 0) == held
        assert "grammar is" in str(refused.value)


def test_a_stream_that_cannot_be_put_aside_says_so(path: str) -> None:
    draft = LlamaPromptLookupDecoding(num_pred_tokens=2)
    with Llama(path, **OPTIONS, draft_model=draft) as llm:
        stream = llm("one two", **_GREEDY, stream=True)
        next(stream)
        other = _text(llm, "three")
        with pytest.raises(EngineError, match="read one to its end first"):
            next(stream)
        assert _text(llm, "three") == other


def test_a_stream_without_room_to_be_put_aside(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BudgetError("no room")

    with Llama(path, **OPTIONS) as llm:
        stream = llm("one two", **_GREEDY, stream=True)
        next(stream)
        monkeypatch.setattr("flexinfer.binding.state.save_state", refuse)
        assert _text(llm, "three")
        with pytest.raises(EngineError, match="the budget has no room for both"):
            next(stream)


def test_closing_from_within_an_answer(path: str) -> None:
    llm = Llama(path, **OPTIONS)

    def close(ids: Any, logits: Any) -> Any:
        llm.close()
        return logits

    with pytest.raises(EngineError, match="closed"):
        llm("one", **_GREEDY, logits_processor=LogitsProcessorList([close]))
    assert repr(llm).endswith("closed>")
    with pytest.raises(EngineError, match="closed"):
        llm.n_ctx()


def test_a_child_opens_a_model_of_its_own(path: str, llm: Llama) -> None:
    """After an answer with two threads, whose helpers the child does not have."""
    expected = _text(llm, "one two")
    held = llm._ledger.used

    def child() -> bool:
        assert repr(llm).endswith("of another process>")
        with Llama(path, **OPTIONS) as own:
            answered = [_text(own, "one two") for _ in range(2)]
            books = own._ledger.used
        # Twice as much, were the other process's model in it.
        return answered == [expected] * 2 and books <= held

    assert in_child(child) == 0
    assert _text(llm, "one two") == expected


def test_a_child_opens_a_model_though_another_thread_was_about_to(path: str, llm: Llama) -> None:
    """The child does not have the thread that would give the locks back."""
    expected, size = _text(llm, "one two"), threading.stack_size()

    def child() -> bool:
        with Llama(path, **OPTIONS) as own:
            return _text(own, "one two") == expected and threading.stack_size() == size

    with aborts._stack_lock, device._device_lock:
        assert in_child(child) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))])
def test_a_copy_is_opened_as_the_model_was(path: str, copied: Any) -> None:
    ours: dict[str, Any] = {
        "weight_memory": "3MiB",
        "strategy": "flex",
        "window": "1MiB",
        "repack": True,
    }
    with Llama(path, **OPTIONS, **ours) as llm, copied(llm) as other:
        assert type(other) is Llama
        assert (other.plan.request.weight_memory, other.plan.request.window) == (3 << 20, 1 << 20)
        assert other.plan.request.strategy == llm.plan.request.strategy
        assert other.n_ctx() == llm.n_ctx()
        assert other.__getstate__()["repack"] is True
        assert _text(other, "one two") == _text(llm, "one two")
    with Llama(path, memory="900MiB", vocab_only=True, verbose=False) as alone:
        assert copied(alone).tokenize(b"one") == alone.tokenize(b"one")


def test_a_copy_of_a_limited_model_is_limited(path: str) -> None:
    budget = process_memory() + (500 << 20)
    with Llama(path, memory=budget, **OPTIONS) as llm:
        state = pickle.dumps(llm)
    with pickle.loads(state) as other:
        assert other.memory == budget
