"""Clients that load a server: each answer is to be whole, and that of its own request."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse

from flexinfer.bench.questions import LETTERS, MALFORMED, question, streamed, whole

# An answer that takes longer hangs.
_ANSWER_SECONDS = 300.0
# Requests sent within so long of each other have no order.
_TOGETHER_SECONDS = 0.25
_KEPT_PROBLEMS = 20


@dataclass
class Record:
    """What came of all requests; `times` are sent and first-token seconds of those answered."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    letters: int = 0

    @property
    def waits(self) -> list[float]:
        """Seconds from sent to first token, of the streams that were answered."""
        return [first - sent for sent, first in self.times]

    def overtaken(self) -> int:
        """How often at most a request was overtaken: by how many sent clearly later."""
        ordered = sorted(self.times)
        sent = [when for when, _ in ordered]
        return max(
            (
                sum(
                    first < got
                    for _, first in ordered[
                        bisect(sent, mine + _TOGETHER_SECONDS) : bisect(sent, got)
                    ]
                )
                for mine, got in ordered
            ),
            default=0,
        )


class Load:
    """So many clients at a time, until they are stopped.

    Args:
        cancelling, malformed: shares of requests that are given up on the way, or make no sense.
    """

    def __init__(
        self,
        port: int,
        clients: int,
        seed: int,
        cancelling: float = 0.2,
        malformed: float = 0.1,
        key: str | None = None,
    ) -> None:
        self._port = port
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._cancelling, self._malformed = cancelling, malformed
        self._stop, self._over = threading.Event(), threading.Event()
        self._connected: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.record = Record()
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed), daemon=True)
            for number in range(clients)
        ]

    def run(self, seconds: float, patience: float = _ANSWER_SECONDS) -> Record:
        """Ask for so long, and wait for what is under way then.

        What has no answer after `patience` more seconds is given up and counted as unfinished.
        """
        for thread in self._threads:
            thread.start()
        time.sleep(seconds)
        self._stop.set()
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        self._give_up()
        for thread in self._threads:
            thread.join()
        return self.record

    def _give_up(self) -> None:
        with self._lock:
            self._over.set()
            for connected in self._connected:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def _run(self, client: int, seed: int) -> None:
        draw = random.Random(f"{seed} {client}")
        for number in range(1 << 30):
            if self._stop.is_set():
                return
            kind = draw.random()
            try:
                if kind < self._malformed:
                    self._refused(*draw.choice(MALFORMED))
                elif kind < self._malformed + self._cancelling:
                    self._cancel(client, number, draw)
                else:
                    self._ask(client, number, draw)
            except (OSError, HTTPException, ValueError, KeyError) as error:
                if self._over.is_set():
                    self._count("unfinished")
                    return
                self._problem("broken", f"client {client}, request {number}: {error!r}")

    def _refused(self, path: str, body: bytes) -> None:
        with self._asked(path, body) as answer:
            text = answer.read()
        said = json.loads(text).get("error", {}).get("message")
        if not (400 <= answer.status < 500 and said):
            self._problem(str(answer.status), f"{path} {body[:60]!r}: {text[:200]!r}")
        self._count("refused")

    def _cancel(self, client: int, number: int, draw: random.Random) -> None:
        path, body, _ = question(client, number, draw, stream=True)
        with self._asked(path, body) as answer:
            for _ in range(draw.randrange(4)):
                answer.readline()
        self._count("cancelled")

    def _ask(self, client: int, number: int, draw: random.Random) -> None:
        stream = draw.random() < 0.5
        path, body, tag = question(client, number, draw, stream=stream)
        sent = time.monotonic()
        with self._asked(path, body) as answer:
            if answer.status != 200:
                self._problem(str(answer.status), f"{path}: {answer.read()[:200]!r}")
                return
            text, first = streamed(answer) if stream else whole(answer)
        if len(text) != len(tag) + LETTERS:
            self._problem("truncated", f"{tag} got {text!r}")
        elif not text.startswith(tag):
            self._problem("crossed", f"{tag} got {text!r}")
        with self._lock:
            self.record.counts["answered"] += 1
            self.record.letters += len(text)
            if stream:
                self.record.times.append((sent, first))

    @contextlib.contextmanager
    def _asked(self, path: str, body: bytes) -> Iterator[HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS)
        try:
            with self._noted(connection):
                connection.request("POST", path, body, self._headers)
                answer = connection.getresponse()
                try:
                    yield answer
                finally:
                    answer.close()
        finally:
            connection.close()

    @contextlib.contextmanager
    def _noted(self, connection: HTTPConnection) -> Iterator[None]:
        """While entered, the connection is one of those that end when all are given up."""
        connection.connect()
        # The connection forgets its socket once an answer has begun that ends with it.
        connected: socket.socket = connection.sock
        with self._lock:
            if self._over.is_set():
                raise ConnectionAbortedError
            self._connected.add(connected)
        try:
            yield
        finally:
            with self._lock:
                self._connected.discard(connected)

    def _count(self, what: str) -> None:
        with self._lock:
            self.record.counts[what] += 1

    def _problem(self, what: str, sentence: str) -> None:
        with self._lock:
            self.record.counts[f"problem: {what}"] += 1
            if len(self.record.problems) < _KEPT_PROBLEMS:
                self.record.problems.append(f"{what}: {sentence}")
