"""Whoever only looks at a server is answered though every thread for answers waits for a slot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection

import pytest
from support.manners import impolite
from support.served import Served, serving
from support.tiny_model import TinyModel

# More than there are threads for two slots.
_CLIENTS = 40
# None of the answers is over by then, nor within many times that.
_LOOK_SECONDS = 20
# What begins and does not end is waited for longer.
_SLOW_SECONDS = 8
_ASKED = {"prompt": [3, 17, 101], "n_predict": -1, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def server(tiny_model: TinyModel) -> Iterator[Served]:
    sizes = ("--memory", "400MiB", "--slots", 1, "--ctx", 16_384)
    with serving(tiny_model("tiny-llama", "q4_0"), *sizes) as served:
        yield served


@contextmanager
def crowded(served: Served) -> Iterator[None]:
    """While entered, one stream is written, and more than can be held wait behind it."""
    with ExitStack() as stack, served.stream("/completion", _ASKED) as first:
        first.readline()
        for _ in range(_CLIENTS):
            connection = HTTPConnection("127.0.0.1", served.port)
            stack.callback(connection.close)
            connection.request("POST", "/completion", json.dumps(_ASKED))
        yield
        # It is still written.
        assert first.readline()


@pytest.mark.parametrize(
    "path", ["/health", "/v1/health", "/slots", "/v1/models", "/engine/stats", "/"]
)
def test_looks_do_not_queue_behind_answers(server: Served, path: str) -> None:
    with crowded(server):
        status, headers, body = server.request("GET", path, timeout=_LOOK_SECONDS)
        assert (status, headers.get("Connection")) == (200, "close")
        assert body


@pytest.mark.parametrize("path", ["/health", "/slots"])
def test_looks_do_not_queue_behind_slow_looks(server: Served, path: str) -> None:
    with impolite(server.port, b"GET /slots HTTP/1.1\r\n", _CLIENTS):
        assert server.request("GET", path, timeout=_SLOW_SECONDS)[0] == 200


def test_an_answer_still_keeps_its_connection(server: Served) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        for number in range(3):
            connection.request("POST", "/tokenize", json.dumps({"content": f"{number}"}))
            held = connection.sock
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.read()
            assert connection.sock is held
    finally:
        connection.close()
