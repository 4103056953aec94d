"""Workers that die, hang, have too little memory or drop off: one error, and on without them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support.command import FLEXINFER, assert_one_sentence, flexinfer
from support.tiny_model import TinyModel
from support.workers import Running, free_port, lend_layers, worker

from flexinfer import Llama
from flexinfer.errors import WorkerError
from flexinfer.workers import dividing
from flexinfer.workers.greeting import greet

_PROMPT = [3, 17, 101, 9, 44, 8, 61, 27]
_OPTIONS: dict[str, Any] = {"n_ctx": 512, "verbose": False, "seed": 1}
# So little that layers are faster elsewhere.
_LITTLE: dict[str, Any] = {"weight_memory": "1MiB"}
_SECONDS = 20.0


def _open(path: Path, endpoint: str) -> Llama:
    return Llama(str(path), rpc=endpoint, **_LITTLE, **_OPTIONS)


def _answer(llm: Llama, count: int = 6) -> list[int]:
    found = []
    for token in llm.generate(_PROMPT, temp=0.0):
        found.append(token)
        if len(found) == count:
            break
    return found


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("tiny-llama", "q4_0")


@pytest.fixture
def alone(model: Path) -> list[int]:
    """The answer without workers."""
    with Llama(str(model), repack=False, **_LITTLE, **_OPTIONS) as llm:
        return _answer(llm)


class Wire:
    """A link to a worker that can be cut: then it carries nothing, and nobody is told.

    Args:
        endpoint: of the worker.
        single: one connection at a time is let through, as by llama.cpp's own worker, which then
            gives no signs of life.
    """

    def __init__(self, endpoint: str, *, single: bool = False) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._door.getsockname()[1]}"
        self._open = True
        self._single = single
        self._running = True
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def cut(self) -> None:
        self._open = False

    def close(self) -> None:
        self._running = False
        self._thread.join()
        for one in [self._door, *self._pairs]:
            one.close()

    def _carry(self) -> None:
        while self._running:
            door = [] if self._single and self._pairs else [self._door]
            ready, _, _ = select.select([*door, *self._pairs], [], [], 0.05)
            for one in ready if self._open else []:
                if one is self._door:
                    near, far = one.accept()[0], socket.create_connection(self._target)
                    self._pairs |= {near: far, far: near}
                    continue
                with contextlib.suppress(OSError, KeyError):
                    if content := one.recv(1 << 16):
                        self._pairs[one].sendall(content)
                    else:
                        other = self._pairs.pop(one)
                        del self._pairs[other]
                        one.close()
                        other.close()
            if not self._open:
                time.sleep(0.05)


@contextlib.contextmanager
def _cut_wire(one: Running, *, single: bool = False) -> Iterator[tuple[str, Callable[[], None]]]:
    wire = Wire(one.endpoint, single=single)
    try:
        yield wire.endpoint, wire.cut
    finally:
        wire.close()


_silent_wire = partial(_cut_wire, single=True)


@contextlib.contextmanager
def _killed(one: Running) -> Iterator[tuple[str, Callable[[], None]]]:
    yield one.endpoint, lambda: one.process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def _stopped(one: Running) -> Iterator[tuple[str, Callable[[], None]]]:
    yield one.endpoint, lambda: one.process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (_killed, "its process ended or the link broke"),
        (_stopped, "it has not answered for 10 s"),
        (_cut_wire, "it has not answered for 10 s"),
        (_silent_wire, "it has not answered for 15 s, and only `flexinfer worker` gives signs"),
    ],
)
def test_a_worker_lost_in_an_answer(
    model: Path,
    alone: list[int],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Running], contextlib.AbstractContextManager[tuple[str, Callable[[], None]]]],
    reason: str,
) -> None:
    with worker() as one, fault(one) as (endpoint, strike):
        lend_layers(monkeypatch, {endpoint: 4})
        _lose(_open(model, endpoint), endpoint, strike, alone, reason)


def _lose(
    llm: Llama, endpoint: str, strike: Callable[[], None], alone: list[int], reason: str
) -> None:
    with llm:
        assert llm.plan.request.split is not None
        assert llm.plan.request.split.counts == (1, 4)
        assert _answer(llm) == alone
        tokens = llm.generate(_PROMPT, temp=0.0)
        next(tokens)
        strike()
        began = time.monotonic()
        with pytest.raises(WorkerError, match=f"worker {endpoint} is lost: {reason}"):
            list(islice(tokens, 200))
        assert time.monotonic() - began < _SECONDS, "an error that nobody waits for is none"
        assert _answer(llm) == alone
        assert llm.plan.request.split is None
        assert _answer(llm) == alone


def test_one_that_is_not_there_is_notes(model: Path, alone: list[int]) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    with _open(model, endpoint) as llm:
        assert _answer(llm) == alone
        (reason,) = [reason for reason in llm.plan.reasons if endpoint in reason]
        assert reason.startswith(f"no worker answers at {endpoint}: connection refused")


def test_one_with_too_little_memory_gets_no_layer(model: Path, alone: list[int]) -> None:
    with worker("50MiB") as one, _open(model, one.endpoint) as llm:
        assert one.memory < 16 << 20
        assert f"worker {one.endpoint} has no layer" in llm.plan.reasons
        assert _answer(llm) == alone


def test_one_that_has_less_than_it_said(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may take the memory between question and load."""
    model = tiny_model("tiny-wide", "f16")
    with worker("60MiB") as one:
        lend_layers(monkeypatch, {one.endpoint: 4})
        monkeypatch.setattr(
            dividing,
            "greet",
            lambda endpoint: replace(greet(endpoint), free=1 << 30),
        )
        with pytest.raises(WorkerError, match=rf"worker {one.endpoint} has .* free, too little"):
            _open(model, one.endpoint)
        monkeypatch.undo()
        assert one.process.poll() is None
        with _open(model, one.endpoint) as llm:
            assert len(_answer(llm)) == 6


def test_one_that_serves_somebody_else(model: Path, alone: list[int]) -> None:
    with worker() as one, _open(model, one.endpoint) as first:
        assert first.plan.request.split is not None
        with _open(model, f"localhost:{one.endpoint.rpartition(':')[2]}") as second:
            (reason,) = [reason for reason in second.plan.reasons if "serves another" in reason]
            assert reason.endswith("ask again when that is done")
            assert _answer(second) == alone
        assert _answer(first) == alone


def test_run_ends_with_one_sentence(model: Path) -> None:
    with worker() as one:
        threading.Timer(3.0, one.process.kill).start()
        done = flexinfer(
            *("run", model, "-p", "one", "-n", 400, "--ctx", 512, "--weight-memory", "1MiB"),
            *("--rpc", one.endpoint, "--temp", 0, "-q"),
        )
    if done.returncode:
        assert "Traceback" not in done.stderr
        assert f"worker {one.endpoint} is lost" in done.stderr


def _commands(endpoint: str, *messages: bytes) -> bytes:
    """What a worker answers to these bytes, until it closes."""
    host, _, port = endpoint.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        for message in messages:
            connection.sendall(message)
        connection.settimeout(3)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(1 << 16):
                received += part
        return received


_HELLO = struct.pack("<BQ", 14, 24) + bytes(24)


@pytest.mark.parametrize(
    "message",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(100),
        _HELLO + struct.pack("<BQ", 6, 1 << 62),
        _HELLO + struct.pack("<BQ", 6, 1 << 33) + bytes(1000),
        _HELLO + struct.pack("<BQ", 99, 0),
        _HELLO + struct.pack("<BQIQ", 0, 12, 0, 1 << 50),
        _HELLO + struct.pack("<BQIQ", 0, 12, 7, 100),
    ],
)
def test_a_worker_survives_what_strangers_send(message: bytes) -> None:
    with worker() as one:
        _commands(one.endpoint, message)
        assert one.process.poll() is None
        assert greet(one.endpoint).free == one.memory


def test_what_does_not_fit_is_refused() -> None:
    with worker() as one:
        asked = struct.pack("<BQIQ", 0, 12, 0, one.memory + 1)
        answer = _commands(one.endpoint, _HELLO, asked)
        assert struct.unpack("<QQ", answer[-16:]) == (0, 0)
        fits = struct.pack("<BQIQ", 0, 12, 0, one.memory // 2)
        remote, size = struct.unpack("<QQ", _commands(one.endpoint, _HELLO, fits)[-16:])
        assert remote
        assert size == one.memory // 2
        assert greet(one.endpoint).free == one.memory, "it is given back when the client leaves"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with worker() as one:
        port = one.endpoint.rpartition(":")[2]
        done = flexinfer("worker", "--memory", "200MiB", "--port", port)
        assert_one_sentence(done, f"port {port} of 127.0.0.1 is taken")


def test_too_little_for_a_worker_at_all() -> None:
    assert_one_sentence(flexinfer("worker", "--memory", "20MiB"), "too little for a worker")


def test_signals_end_a_worker() -> None:
    with worker() as one:
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(10) == 128 + signal.SIGTERM


def test_it_says_that_it_trusts_its_clients() -> None:
    import subprocess

    command = [*FLEXINFER, "worker", "--memory", "200MiB", "--host", "0.0.0.0", "--json"]
    port = free_port()
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert "a worker trusts its clients" in said
