"""A server under requests and clients of every kind: it never ends, and goes on answering."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def test_a_large_request_has_its_turn_while_small_ones_keep_coming(server: Served) -> None:
    """Of the memory in which requests are read: small ones never leave enough for it."""

    def sized(share: float, **body: object) -> dict[str, object]:
        return {**body, "padding": "x" * int(share * kept * len(json.dumps(huge)) / taken)}

    huge = {"content": "x" * 1_000_000}
    said = server.post("/tokenize", huge)[1]["error"]["message"]
    taken, kept = map(int, re.findall(r"\d+", said)[:2])
    over, answered = threading.Event(), 0

    def ask() -> None:
        nonlocal answered
        for _ in range(10):
            if not over.is_set():
                server.complete(**sized(0.2, prompt=[3], n_predict=32, ignore_eos=True))
                answered += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        while answered < 4:
            time.sleep(0.01)
        status, _ = server.post("/tokenize", sized(0.9, content="x"))
        before = answered
        over.set()
        for each in asking:
            each.result()
    assert status == 200
    assert before < 20
