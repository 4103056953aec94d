"""The budget changes between and during answers; the tokens do not."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.decoding_bits import answer, open_tiny
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import BudgetError
from flexinfer.machine.auto_budget import Move
from flexinfer.planning import planner
from flexinfer.planning.fitting import smallest_window

_MODELS = ("tiny-llama", "tiny-moe", "tiny-tied")


@pytest.fixture(scope="module", params=_MODELS)
def llm(tiny_model: TinyModel, request: pytest.FixtureRequest) -> Iterator[Llama]:
    with open_tiny(tiny_model(request.param, "q4_0"), weight_memory="1GiB") as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(llm: Llama) -> bytes:
    return answer(llm)


# None gives everything back; a number is the share between the smallest plan and all weights.
_STEPS = st.lists(st.one_of(st.none(), st.floats(0.0, 1.0)), min_size=1, max_size=6)


def _apply(llm: Llama, step: float | None) -> None:
    engine = llm._running()
    if step is None:
        llm.release()
        return
    most = llm.plan.weight_bytes * 2
    engine.resize(int(_least(llm) + step * (most - _least(llm))))


def _least(llm: Llama) -> int:
    low, high = 0, llm.plan.weight_bytes * 2
    while high - low > 4096:
        middle = (low + high) // 2
        try:
            planner.refit(llm.plan, middle)
            high = middle
        except BudgetError:
            low = middle
    return high


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_STEPS, _STEPS)
def test_any_sequence_of_budgets_gives_the_same_bits(
    llm: Llama, expected: bytes, between: list[float | None], during: list[float | None]
) -> None:
    for step in between:
        _apply(llm, step)
    llm.reset()
    llm.eval([3, 17, 101, 9, 44, 8, 61, 27])
    for number in range(3):
        if number < len(during):
            _apply(llm, during[number])
        llm.eval([int(np.argmax(llm.scores[llm.n_tokens - 1]))])
    assert llm.scores[: llm.n_tokens].tobytes() == expected


def test_another_window_gives_the_same_bits(llm: Llama, expected: bytes) -> None:
    _apply(llm, 0.3)
    storage = llm._storage()
    for share in (2, 3, 1):
        if llm.plan.expert_window or not llm.plan.window:
            pytest.skip("nothing of this model passes through a window of its own")
        window = max(llm.plan.window * share // 2, smallest_window(llm.plan.weights, llm.plan.room))
        storage.apply(planner.rewindow(llm.plan, window))
        assert llm.plan.window == window
        assert answer(llm) == expected


def test_release_gives_the_memory_back_and_the_next_request_resumes(
    llm: Llama, expected: bytes
) -> None:
    _apply(llm, 1.0)
    answer(llm)
    storage = llm._storage()
    if not storage.locked_bytes:
        pytest.skip("nothing of this model is locked as a whole")
    llm.release()
    assert storage.locked_bytes == 0
    assert answer(llm) == expected
    assert storage.locked_bytes > 0


def test_a_budget_that_is_too_small_changes_nothing(llm: Llama, expected: bytes) -> None:
    before = llm.plan
    with pytest.raises(BudgetError):
        llm._running().resize(4096)
    assert llm.plan is before
    assert answer(llm) == expected


def test_weights_that_cannot_grow_do_not_shrink_for_it(llm: Llama) -> None:
    engine, ledger = llm._running(), llm._ledger
    _apply(llm, 0.3)
    before = llm.plan
    ledger.limit = ledger.used + 4096
    with pytest.raises(BudgetError):
        _apply(llm, 1.0)
    ledger.limit = None
    assert llm.plan is before
    assert engine.charged == before.held_bytes


def test_memory_is_the_dial(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-llama", "q4_0"))
    with Llama(path, memory="5GiB", n_ctx=256, logits_all=True, verbose=False) as llm:
        assert llm.memory == 5 << 30
        expected = answer(llm)
        llm.memory = "4GiB"
        assert llm.memory == 4 << 30
        assert answer(llm) == expected


def test_a_limit_ends_with_the_last_model_that_asked_for_one(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-llama", "q4_0")
    with open_tiny(path, weight_memory="1GiB") as counted:
        assert counted.memory is None
        with Llama(str(path), memory="4GiB", n_ctx=256, verbose=False) as limited:
            assert counted.memory == limited.memory == 4 << 30
            with Llama(str(path), memory="5GiB", n_ctx=256, verbose=False) as second:
                assert second.memory == limited.memory == 5 << 30
            assert limited.memory == 4 << 30
        assert counted.memory is None
        counted.memory = "3GiB"
        with Llama(str(path), memory="5GiB", n_ctx=256, verbose=False) as later:
            assert later.memory == counted.memory == 5 << 30
        assert counted.memory == 3 << 30
    with open_tiny(path, weight_memory="1GiB") as counted:
        assert counted.memory is None
        with Llama(str(path), memory="5GiB", n_ctx=256, verbose=False) as later:
            assert later.memory == 5 << 30


def test_two_models_that_grow_at_once_never_wait_for_each_other(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ask at the same moment, each for what only the other can give, and answer meanwhile."""
    path = tiny_model("tiny-wide", "f16")
    with open_tiny(path, weight_memory="1GiB") as one, open_tiny(path, weight_memory="1GiB") as two:
        engines = [llm._running() for llm in (one, two)]
        expected = answer(one)
        ledger = one._ledger
        most, least = engines[0].charged, _least(one)
        for engine in engines:
            engine.resize(least)
        # Not even one grows to its wish without bytes of the other's smallest window.
        rest = ledger.used - sum(engine.charged for engine in engines)
        ledger.limit = rest + most + least // 2
        ended: list[bool] = []
        both, charge = threading.Barrier(2), ledger.charge

        def charge_together(account: str, nbytes: int, **options: Any) -> None:
            if account == "weights":
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(0.2)
            charge(account, nbytes, **options)

        monkeypatch.setattr(ledger, "charge", charge_together)

        def grow(llm: Llama) -> None:
            for _ in range(15):
                with contextlib.suppress(BudgetError):
                    llm._running().resize(most)
                assert answer(llm) == expected
            ended.append(True)

        threads = [threading.Thread(target=grow, args=(llm,)) for llm in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert ended == [True, True]
        for engine in engines:
            assert engine.charged == engine.storage.plan.held_bytes
        assert ledger.used <= ledger.limit
        ledger.limit = None


def test_auto_follows_until_it_is_closed(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[Move] = []
    path = str(tiny_model("tiny-llama", "q4_0"))
    with Llama(
        path, memory="auto", on_move=moves.append, n_ctx=256, logits_all=True, verbose=False
    ) as llm:
        expected = answer(llm)
        follower = llm._follower
        assert follower is not None
        before = llm.memory
        assert before is not None
        monkeypatch.setattr(follower, "_look", lambda: _look(before // 2))
        assert follower.step(0.0) is not None or llm.memory == before // 2
        assert llm.memory == before // 2
        assert answer(llm) == expected
    assert moves[-1].after == before // 2


def _look(room: int) -> object:
    from flexinfer.machine.auto_budget import Look

    return Look(room, 0.0)


def test_what_was_read_is_never_counted_twice_while_the_plan_changes(llm: Llama) -> None:
    engine, seen = llm._running(), [0]
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(llm.read_bytes)

    llm.reset()
    llm.eval([3, 17])
    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            engine.release()
        llm.eval([101])
    finally:
        over.set()
        looking.join()
    assert seen == sorted(seen)
    assert seen[-1] > 0
