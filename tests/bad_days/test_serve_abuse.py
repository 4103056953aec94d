"""A server under requests and clients of every kind: it never ends, and goes on answering."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

import pytest
from support.abused import abused, plain
from support.drawn_requests import KEY
from support.judged import drawn, problems
from support.manners import SENT, impolite, leave, trickling
from support.served import Served

from flexinfer.errors import UnsupportedError

# More than there are threads for connections.
CLIENTS = 26


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    model = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
    try:
        with abused(model) as served:
            yield served
    except UnsupportedError as error:
        pytest.skip(str(error))


def state(served: Served) -> tuple[int, int]:
    """Descriptors, and slots that are busy."""
    descriptors = len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))
    return descriptors, sum(slot["is_processing"] for slot in served.get("/slots")[1])


@pytest.mark.parametrize("number", range(4))
def test_drawn_requests_are_answered_or_refused(server: Served, number: int) -> None:
    assert not problems(server.port, drawn(60, number), 6, Counter())
    plain(server)


def test_others_are_answered_beside_clients_without_manners(server: Served) -> None:
    with ExitStack() as stack:
        for sent in SENT.values():
            stack.enter_context(impolite(server.port, sent, 3))
        plain(server)
    plain(server)


def test_others_are_answered_beside_clients_that_send_a_byte_now_and_then(server: Served) -> None:
    with trickling(server.port, CLIENTS):
        plain(server)
    plain(server)


def test_whoever_leaves_leaves_nothing_behind(server: Served) -> None:
    plain(server)
    before = state(server)
    for sent in SENT.values():
        for _ in range(4):
            leave(server.port, sent)
    plain(server)
    for _ in range(150):
        after = state(server)
        if after[0] <= before[0] and after[1] <= before[1]:
            break
        time.sleep(0.1)
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert KEY not in server.log
