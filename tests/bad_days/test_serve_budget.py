"""Requests made to grow, in a group of just the budget: they are refused, the others answered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from support.served import Served, serving
from support.tiny_model import TinyModel

from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.errors import UnsupportedError

MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[Callable[[int], LimitedGroup]]:
    with ExitStack() as stack:

        def make(memory: int) -> LimitedGroup:
            try:
                return stack.enter_context(limited(memory=memory))
            except UnsupportedError as error:
                pytest.skip(str(error))

        yield make


def ask(server: Served, number: int) -> int:
    """One request of a kind that its number says; the status of the answer."""
    draw = random.Random(number)
    prompt = [draw.randrange(3, 2000) for _ in range(draw.randrange(1, 500))]
    body: dict[str, object] = {"prompt": prompt, "n_predict": 12, "seed": number}
    if number % 8 == 2:
        # As large as is taken.
        body["padding"] = "x" * (900 << 10)
    if number % 8 == 3:
        # As costly to read as can be.
        return server.request("POST", "/completion", b"[" * (1 << 20))[0]
    return server.request("POST", "/completion", json.dumps(body).encode())[0]


@pytest.mark.parametrize("slots", [1, 8])
def test_requests_that_are_costly_to_read_take_no_more_than_was_kept_for_them(
    tiny_model: TinyModel, group: Callable[[int], LimitedGroup], slots: int
) -> None:
    budget = 280 * MIB
    inside = group(budget)
    options = ("--memory", f"{budget}B", "--slots", slots, "--ctx", 512)
    model = tiny_model("tiny-wide", "q4_0")
    with inside.watch() as seen, serving(model, *options, group=inside) as server:
        with ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(lambda number: ask(server, number), range(48)))
        assert server.stats["memory"]["used"] <= budget
    assert inside.oom_kills == 0
    assert 0 < seen.peak <= budget
    refused = [number for number, status in enumerate(statuses) if status != 200]
    assert refused == [number for number in range(48) if number % 8 in (2, 3)]
    assert {statuses[number] for number in refused} == {400}
