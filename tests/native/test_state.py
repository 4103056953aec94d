"""States in memory and in files: the parent's bytes, charged to the budget, within the limit."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp import LlamaRAMCache
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import BudgetError, RequestError, UnsupportedError
from flexinfer.machine.machine import process_memory

_OPTIONS: dict[str, Any] = {
    "n_ctx": 256,
    "n_batch": 64,
    "n_threads": 2,
    "seed": 5,
    "verbose": False,
}
_PROMPT = [3, 17, 101, 9, 44, 8, 61, 27]
MIB = 1 << 20


@pytest.fixture
def llm(tiny_model: TinyModel) -> Iterator[Llama]:
    # Whatever other tests left in this process counts too.
    memory = process_memory() + 160 * MIB
    with Llama(str(tiny_model("tiny-llama")), memory=memory, **_OPTIONS) as llm:
        yield llm
        llm._ledger.set("others", 0)


def _leave(llm: Llama, nbytes: int) -> None:
    """Book for somebody else what is free but for `nbytes`."""
    assert llm._ledger.free is not None
    llm._ledger.set("others", llm._ledger.free - nbytes)


def _some(llm: Llama) -> list[int]:
    return [int(token) for token in islice(llm.generate([5], reset=False, temp=0.0), 6)]


def _states(llm: Llama) -> int:
    return llm._ledger.accounts.get("states", 0)


@pytest.mark.parametrize("logits_all", [False, True])
def test_ours_and_the_parents_states_are_one_another(
    tiny_model: TinyModel, logits_all: bool
) -> None:
    path = str(tiny_model("tiny-llama"))
    with Llama(path, weight_memory="1MiB", **_OPTIONS, logits_all=logits_all) as llm:
        llm.eval(_PROMPT)
        ours, theirs = llm.save_state(), llama_cpp.Llama.save_state(llm)
        assert bytes(ours.llama_state) == theirs.llama_state
        assert ours.llama_state_size == theirs.llama_state_size
        assert (ours.n_tokens, ours.seed) == (theirs.n_tokens, theirs.seed)
        assert np.array_equal(ours.input_ids[:8], theirs.input_ids[:8])
        if logits_all:
            assert ours.scores.tobytes() == theirs.scores.tobytes()
        expected = _some(llm)
        for state in (ours, theirs, pickle.loads(pickle.dumps(ours))):
            llm.reset()
            llm.load_state(state)
            assert _some(llm) == expected
        llama_cpp.Llama.load_state(llm, ours)
        assert _some(llm) == expected


def test_a_state_is_charged_as_long_as_it_lives(llm: Llama) -> None:
    llm.eval(_PROMPT)
    state = llm.save_state()
    assert _states(llm) >= state.llama_state_size + state.scores.nbytes
    del state
    assert _states(llm) == 0


def test_weights_give_way_to_a_state_and_stay_exact(llm: Llama) -> None:
    llm.eval(_PROMPT)
    start = llm.save_state()
    expected = _some(llm)
    before = llm.plan.held_bytes
    _leave(llm, _states(llm) // 2)
    again = llm.save_state()
    assert llm.plan.held_bytes < before
    assert llm._ledger.free is not None
    assert llm._ledger.free >= 0
    llm.load_state(start)
    assert _some(llm) == expected
    del again


def test_a_state_without_room_is_refused_and_nothing_is_charged(llm: Llama) -> None:
    llm.eval(_PROMPT)
    _leave(llm, -llm.plan.held_bytes)
    with pytest.raises(BudgetError, match="states needs"):
        llm.save_state()
    assert _states(llm) == 0


def test_older_cached_states_go_before_weights(llm: Llama) -> None:
    cache = LlamaRAMCache()
    llm.set_cache(cache)
    llm.eval(_PROMPT)
    cache[_PROMPT] = llm.save_state()
    held = llm.plan.held_bytes
    _leave(llm, _states(llm) // 2)
    cache[[1, 2]] = llm.save_state()
    assert list(cache.cache_state) == [(1, 2)]
    assert llm.plan.held_bytes == held


def test_another_models_state_is_refused(llm: Llama, tiny_model: TinyModel) -> None:
    llm.eval(_PROMPT)
    state = llm.save_state()
    with Llama(str(tiny_model("tiny-moe")), weight_memory="1MiB", **_OPTIONS) as other:
        other.eval(_PROMPT)
        with pytest.raises(RequestError, match="another model's"):
            other.load_state(state)
        assert other.n_tokens == 0
        assert len(_some(other)) == 6


def test_a_file_holds_what_a_state_does(llm: Llama, tmp_path: Path) -> None:
    llm.eval(_PROMPT)
    path = tmp_path / "state"
    llm.save_state_file(path)
    expected = _some(llm)
    llm.reset()
    assert llm.load_state_file(path) == len(_PROMPT)
    assert _some(llm) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert _states(llm) == 0


def test_what_is_no_state_file_is_refused(llm: Llama, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(RequestError, match="nothing was computed"):
        llm.save_state_file(path)
    llm.eval(_PROMPT)
    with pytest.raises(RequestError, match="cannot be written"):
        llm.save_state_file(path / "in" / "no folder")
    llm.save_state_file(path)
    whole = path.read_bytes()
    damaged = (whole[:-1000], whole[:-1], whole[:5000] + b"x" + whole[5001:], b"", b"no state")
    for number, content in enumerate(damaged):
        (tmp_path / f"{number}").write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    for name in ("0", "1", "2", "3", "4", "missing", ".", "pipe", "/dev/zero"):
        wrong = tmp_path / name
        with pytest.raises(RequestError, match="no state of this model"):
            llm.load_state_file(wrong)
    assert len(_some(llm)) == 6


def test_a_file_of_other_kernels_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, path = str(tiny_model("tiny-llama", "q4_0")), tmp_path / "state"
    with Llama(model, repack=True, **_OPTIONS) as llm:
        llm.eval(_PROMPT)
        llm.save_state_file(path)
        assert llm.load_state_file(path) == len(_PROMPT)
    with (
        Llama(model, repack=False, **_OPTIONS) as other,
        pytest.raises(RequestError, match=r"computed with packed kernels.*with repack=True"),
    ):
        other.load_state_file(path)


def test_scores_of_all_tokens_are_planned_for(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-wide"))
    overheads = []
    for logits_all in (False, True):
        with Llama(
            path, memory=process_memory() + 300 * MIB, **_OPTIONS, logits_all=logits_all
        ) as llm:
            overheads.append(llm.plan.costs.overhead)
            scores = llm.scores.nbytes
    assert scores == 4 * 256 * 32000
    assert overheads[1] - overheads[0] > scores // 2


_IN_A_GROUP = """
import sys
from flexinfer import Llama
path, memory, file = sys.argv[1:]
with Llama(path, memory=int(memory), n_ctx=1024, n_batch=512, n_threads=2, verbose=False) as llm:
    llm.eval([3 + i % 1000 for i in range(1000)])
    state = llm.save_state()
    llm.save_state_file(file)
    llm.load_state(state)
    llm.load_state_file(file)
    llm.eval([5])
    print(state.llama_state_size)
"""


def test_the_budget_holds_while_states_are_saved(tmp_path: Path) -> None:
    """In a group of just the budget's size; two copies of the state would not fit."""
    from flexinfer.synth.shapes import Shape
    from flexinfer.synth.write import write_model

    model, memory = tmp_path / "heads.gguf", 340 * MIB
    write_model(Shape(4, 256, 256, 32, 32, 2048, 128), model)
    command = [sys.executable, "-c", _IN_A_GROUP, str(model), str(memory), str(tmp_path / "state")]
    with ExitStack() as stack:
        from flexinfer.bench.limits import limited

        try:
            group = stack.enter_context(limited(memory=memory))
        except UnsupportedError as error:
            pytest.skip(str(error))
        done = subprocess.run(
            command, preexec_fn=group.join, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert group.oom_kills == 0
        assert int(done.stdout) > 60 * MIB
