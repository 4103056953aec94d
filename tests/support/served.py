"""Servers as children: started on a port that is free, asked over HTTP, and surely ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from flexinfer import Server
from flexinfer.bench.limits import LimitedGroup
from flexinfer.errors import UnsupportedError

# A child that does not start, or does not end when told to, is not waited for any longer.
_START_SECONDS = 120
_END_SECONDS = 10

# Eight tokens of the tiny models, whatever the slot held before.
ASKED: dict[str, Any] = {
    "prompt": [3, 17, 101],
    "n_predict": 8,
    "temperature": 0,
    "ignore_eos": True,
    "cache_prompt": False,
    "return_tokens": True,
}


class Served:
    """A server that runs; `ready` is the line it printed when it did."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any], log: Path) -> None:
        self.process = process
        self.ready = ready
        self._log = log
        self.key: str | None = None

    @property
    def port(self) -> int:
        return int(self.ready["address"].rpartition(":")[2])

    @property
    def log(self) -> str:
        """What it said on standard error."""
        return self._log.read_text("utf-8", "replace")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 300,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer, whatever its status."""
        given = {"Content-Type": "application/json"} | (headers or {})
        if self.key is not None:
            given.setdefault("Authorization", f"Bearer {self.key}")
        asked = urllib.request.Request(self.ready["address"] + path, body, given, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=timeout) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def get(self, path: str) -> tuple[int, Any]:
        status, _, body = self.request("GET", path)
        return status, json.loads(body)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        status, _, text = self.request("POST", path, json.dumps(body).encode())
        return status, json.loads(text)

    def complete(self, **body: Any) -> dict[str, Any]:
        """The answer to a completion, which must succeed."""
        status, answer = self.post("/completion", body)
        assert status == 200, answer
        return dict(answer)

    def complete_together(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers to completions that are all under way at the same time."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: self.complete(**body), bodies))

    @property
    def stats(self) -> dict[str, Any]:
        status, document = self.get("/engine/stats")
        assert status == 200, document
        return dict(document)

    @contextmanager
    def stream(self, path: str, body: Any) -> Iterator[HTTPResponse]:
        """An answer as it comes, line by line; leaving it closes the connection."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        connection.request("POST", path, json.dumps(body | {"stream": True}), headers)
        answer = connection.getresponse()
        try:
            yield answer
        finally:
            answer.close()
            connection.close()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(_END_SECONDS)


def events(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The documents of a stream of events, without the mark of its end."""
    for line in answer:
        if line.startswith(b"data: ") and b"[DONE]" not in line:
            yield json.loads(line[len(b"data: ") :])


@contextmanager
def serving(
    *arguments: object, group: LimitedGroup | None = None, keep: tuple[int, ...] = ()
) -> Iterator[Served]:
    """`flexinfer serve ARGUMENTS`, on a port of its own unless one is named.

    Skips where the server was not built. `keep` are descriptors that the child gets.
    """
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    given = ("--port", "0", *arguments[:cut], "--json", *arguments[cut:])
    command = [sys.executable, "-m", "flexinfer", "serve", *map(str, given)]
    with _child(command, group, keep) as served:
        yield served


@contextmanager
def plainly_serving(*arguments: object) -> Iterator[Served]:
    """llama.cpp's server with its own flags, without our engine."""
    command = [sys.executable, "-m", "support.plain_server", *map(str, arguments), "--port", "0"]
    with _child(command) as served:
        yield served


@contextmanager
def _child(
    command: list[str], group: LimitedGroup | None = None, keep: tuple[int, ...] = ()
) -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as said:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                preexec_fn=None if group is None else group.join,
                pass_fds=keep,
            )
        try:
            yield Served(process, _ready(process, log), log)
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                assert process.stdout is not None
                process.stdout.close()


def _ready(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    late = threading.Timer(_START_SECONDS, process.kill)
    late.start()
    line = process.stdout.readline()
    late.cancel()
    if not line:
        said = log.read_text("utf-8", "replace")
        if "was not built" in said:
            pytest.skip(said.splitlines()[-1])
        pytest.fail(f"the server did not start: {said[-3000:]}")
    document = dict(json.loads(line))
    assert "address" in document, document
    return document


def started(model: object, **options: Any) -> Server:
    """`flexinfer.Server`; skips where the server was not built."""
    try:
        return Server(str(model), **options)
    except UnsupportedError as error:
        if "was not built" in str(error):
            pytest.skip(str(error))
        raise
