"""A context that the budget cut: who asks for more is told so, before any of it is computed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.command import flexinfer
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import BudgetError, RequestError

_ASKED = 16384


@pytest.fixture(scope="module")
def path(tiny_model: TinyModel) -> str:
    return str(tiny_model("tiny-llama"))


@pytest.fixture
def budget(path: str) -> int:
    """Enough for a context of some 1,000 tokens."""
    with Llama(path, memory="4GiB", n_ctx=1024, n_batch=256, verbose=False) as llm:
        use = llm.memory_use()
    # Not a share of it: most is the process, which has grown by the tests before.
    return sum(use.values()) - use["budget"] + (9 << 20)


@pytest.fixture
def llm(path: str, budget: int) -> Iterator[Llama]:
    with _least(path, budget, n_batch=4096, n_ubatch=256, embedding=True) as model:
        assert 512 <= model.n_ctx() == model.plan.ctx < 4000
        yield model


def _least(path: str, about: int, **options: Any) -> Llama:
    """Opened with the least memory that does: what the process takes changes by the MiB."""
    for more in range(-64, 64, 4):
        try:
            return Llama(path, memory=about + (more << 20), n_ctx=_ASKED, verbose=False, **options)
        except BudgetError:
            continue
    raise AssertionError(f"no budget around {about} bytes does")


def _text(llm: Llama) -> str:
    return "word " * int(llm.n_ctx())


@pytest.mark.parametrize(
    "use",
    [
        lambda llm, ids: llm.eval(ids),
        lambda llm, ids: next(llm.generate(ids)),
        lambda llm, ids: llm.create_completion(ids),
        lambda llm, ids: llm.create_completion(_text(llm)),
        lambda llm, ids: next(llm.create_completion(ids, stream=True)),
        lambda llm, ids: llm.create_chat_completion([{"role": "user", "content": _text(llm)}]),
        lambda llm, ids: llm.embed(_text(llm)),
        lambda llm, ids: llm.create_embedding(_text(llm)),
    ],
    ids=["eval", "generate", "complete", "text", "stream", "chat", "embed", "embedding"],
)
def test_more_than_it_holds(llm: Llama, use: Callable[[Any, list[int]], Any]) -> None:
    ids = [1] * (llm.n_ctx() + 1)
    passes = llm.stats.passes
    with pytest.raises(RequestError) as error:
        use(llm, ids)
    holds = f"the context holds {llm.n_ctx()} of the {_ASKED} asked for"
    assert holds in str(error.value)
    assert "give more memory or a shorter text" in str(error.value)
    assert llm.stats.passes == passes
    llm.reset()
    llm.eval([1, 2, 3])


@pytest.mark.own_process
def test_what_may_not_give_way_does_not(path: str, budget: int) -> None:
    with pytest.raises(BudgetError, match="the smallest that would do"):
        Llama(path, memory=budget, n_ctx=_ASKED, min_ctx=_ASKED, verbose=False)
    with Llama(path, memory=budget, n_ctx=_ASKED, min_ctx=600, verbose=False) as llm:
        assert 600 <= llm.n_ctx() < _ASKED


def test_run_refuses_a_prompt_for_which_the_budget_has_no_room(path: str) -> None:
    """Before any of it is computed, where the plan would have cut the context below it."""
    done = flexinfer("run", path, "--memory", "90MiB", "-n", 4, text="word " * 9000)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(r"budget of 90.0 MiB is too small: .*\(context \d{4,}\)", done.stderr)
    assert "llama_decode" not in done.stderr


def test_a_cut_context_is_told_and_is_in_the_document(path: str) -> None:
    asked = 200_000
    words = ("run", path, "--memory", "90MiB", "--ctx", asked, "-p", "one", "-n", 2)
    done = flexinfer(*words)
    assert done.returncode == 0, done.stderr
    document = json.loads(flexinfer(*words, "--json").stdout)
    got = document["ctx"]["got"]
    assert document["ctx"] == {"asked": asked, "got": got}
    assert document["ubatch"]["got"] <= document["ubatch"]["asked"]
    assert 512 <= got < asked
    told = re.search(r"no room for a context of 200000 tokens: it is (\d+)", done.stderr)
    assert told is not None
    talk = flexinfer("chat", path, *words[2:6], "-n", 2, text="one\n")
    assert talk.returncode == 0, talk.stderr
    assert "no room for a context of 200000 tokens" in talk.stderr
