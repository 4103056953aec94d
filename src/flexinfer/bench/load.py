"""Clients that load a server: each answer is to be whole, and that of its own request."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from bisect import bisect
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

# An answer that takes longer hangs.
_ANSWER_SECONDS = 300.0
# Requests sent within so long of each other have no order.
_TOGETHER_SECONDS = 0.25
_LETTERS = 24
_KEPT_PROBLEMS = 20
_PATHS = ("/completion", "/v1/chat/completions")
MALFORMED: tuple[tuple[str, bytes], ...] = (
    ("/completion", b'{"prompt": '),
    ("/completion", b"[]"),
    ("/completion", b'{"prompt": {"no": "text"}}'),
    ("/completion", b'{"prompt": "x", "grammar": "root ::= ("}'),
    ("/completion", b'{"prompt": "x", "n_probs": 1000000}'),
    ("/completion", json.dumps({"prompt": [5] * 20_000}).encode()),
    ("/v1/chat/completions", b'{"messages": "none"}'),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": 5}]}'),
    ("/v1/messages", b'{"max_tokens": 8}'),
    ("/no/such/path", b"{}"),
)


@dataclass
class Record:
    """What came of all requests; `times` are sent and first-token seconds of those answered."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    letters: int = 0

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
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.record = Record()
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed), daemon=True)
            for number in range(clients)
        ]

    def run(self, seconds: float) -> Record:
        """Ask for so long, and wait for what is under way then."""
        for thread in self._threads:
            thread.start()
        time.sleep(seconds)
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.record

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
                self._problem("broken", f"client {client}, request {number}: {error!r}")

    def _refused(self, path: str, body: bytes) -> None:
        with self._asked(path, body) as answer:
            text = answer.read()
        said = json.loads(text).get("error", {}).get("message")
        if not (400 <= answer.status < 500 and said):
            self._problem(str(answer.status), f"{path} {body[:60]!r}: {text[:200]!r}")
        self._count("refused")

    def _cancel(self, client: int, number: int, draw: random.Random) -> None:
        path, body, _ = _question(client, number, draw, stream=True)
        with self._asked(path, body) as answer:
            for _ in range(draw.randrange(4)):
                answer.readline()
        self._count("cancelled")

    def _ask(self, client: int, number: int, draw: random.Random) -> None:
        stream = draw.random() < 0.5
        path, body, tag = _question(client, number, draw, stream=stream)
        sent = time.monotonic()
        with self._asked(path, body) as answer:
            if answer.status != 200:
                self._problem(str(answer.status), f"{path}: {answer.read()[:200]!r}")
                return
            text, first = _streamed(answer) if stream else _whole(answer)
        if len(text) != len(tag) + _LETTERS:
            self._problem("truncated", f"{tag} got {text!r}")
        elif not text.startswith(tag):
            self._problem("crossed", f"{tag} got {text!r}")
        with self._lock:
            self.record.counts["answered"] += 1
            self.record.letters += len(text)
            if stream:
                self.record.times.append((sent, first))

    @contextlib.contextmanager
    def _asked(self, path: str, body: bytes) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS)
        try:
            connection.request("POST", path, body, self._headers)
            answer = connection.getresponse()
            try:
                yield answer
            finally:
                answer.close()
        finally:
            connection.close()

    def _count(self, what: str) -> None:
        with self._lock:
            self.record.counts[what] += 1

    def _problem(self, what: str, sentence: str) -> None:
        with self._lock:
            self.record.counts[f"problem: {what}"] += 1
            if len(self.record.problems) < _KEPT_PROBLEMS:
                self.record.problems.append(f"{what}: {sentence}")


def _question(
    client: int, number: int, draw: random.Random, *, stream: bool
) -> tuple[str, bytes, str]:
    """Path, body, and how the answer has to begin: a grammar leaves the model no other way."""
    tag = f"{client}-{number}:"
    grammar = f'root ::= "{tag}" [a-z]{{{_LETTERS}}}'
    words = " ".join(str(draw.randrange(1000)) for _ in range(draw.randrange(1, 24)))
    path = draw.choice(_PATHS)
    body: dict[str, Any] = {"grammar": grammar, "stream": stream, "max_tokens": 200}
    if path == "/completion":
        body["prompt"] = words
    else:
        body["messages"] = [{"role": "user", "content": words}]
    return path, json.dumps(body).encode(), tag


def _text(document: dict[str, Any]) -> str:
    if "error" in document:
        raise ValueError(document["error"])
    if "content" in document:
        return str(document["content"])
    choices = document["choices"]
    if not choices:
        return ""
    return str(choices[0].get("message", choices[0].get("delta", {})).get("content") or "")


def _whole(answer: HTTPResponse) -> tuple[str, float]:
    return _text(json.loads(answer.read())), time.monotonic()


def _streamed(answer: HTTPResponse) -> tuple[str, float]:
    """The text of a stream, which has to come to its end, and when its first part came."""
    parts, first, ended = [], 0.0, False
    for line in answer:
        if not line.startswith(b"data: "):
            continue
        if b"[DONE]" in line:
            ended = True
            continue
        document = json.loads(line[len(b"data: ") :])
        parts.append(_text(document))
        if parts[-1]:
            first = first or time.monotonic()
        ended = ended or document.get("stop") is True
    if not ended:
        raise ValueError(f"a stream ended early, after {''.join(parts)!r}")
    return "".join(parts), first
