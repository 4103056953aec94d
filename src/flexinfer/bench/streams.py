"""Streams that a server decodes together: how many tokens a second they get once all are under way.

The server is a process of its own: ours, or llama.cpp's. Counted is between two ends of passes at
which every stream was decoding.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from types import MappingProxyType
from typing import Any

from flexinfer.errors import EngineError

PROMPT = 16
_POLL_SECONDS, _LEAST_PAUSE = 0.02, 0.001
_COUNTED = ("compute_s", "wait_s", "idle_s", "read_bytes", "segments")


class _EndedError(EngineError):
    """A stream has written all its tokens, or was cut off."""


@dataclass(frozen=True)
class Count:
    """So far: passes, tokens of all streams, and what else the engine counts."""

    passes: int
    tokens: int
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Steady:
    """What was counted between two ends of passes; `others` are means of a pass."""

    passes: int
    tokens: int
    seconds: float
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def tok_s(self) -> float:
        """Tokens a second of all streams."""
        return self.tokens / self.seconds


class Streams:
    """Streams of the server at `address` that write until they are left, one for each slot.

    `asked` are members of each request beside those that are always the same.
    """

    def __init__(
        self, address: str, count: int, tokens: int, asked: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._address = address
        self._asked = asked
        self._left = threading.Event()
        self._written = [0] * count
        self._tokens = tokens
        self._threads = [
            threading.Thread(target=self._follow, args=(number,), daemon=True)
            for number in range(count)
        ]

    def __enter__(self) -> Streams:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    @property
    def least(self) -> int:
        """Tokens that the slowest of them has."""
        return min(self._written)

    @property
    def written(self) -> int:
        """Tokens that all of them have."""
        return sum(self._written)

    @property
    def writing(self) -> bool:
        """Whether all of them go on."""
        return all(thread.is_alive() for thread in self._threads)

    def _follow(self, number: int) -> None:
        connection = HTTPConnection(self._address.removeprefix("http://"))
        body = {
            "prompt": [300 + 7 * number + at for at in range(PROMPT)],
            "n_predict": self._tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
            "stream": True,
            **self._asked,
        }
        headers = {"Content-Type": "application/json"}
        try:
            connection.request("POST", "/completion", json.dumps(body), headers)
            for line in connection.getresponse():
                if self._left.is_set():
                    break
                if line.startswith(b"data: {"):
                    self._written[number] += len(json.loads(line[6:]).get("tokens", []))
        except (OSError, HTTPException):
            if not self._left.is_set():
                raise
        finally:
            connection.close()


def ask(address: str, path: str) -> Any:
    """The JSON document at a path of a server."""
    with urllib.request.urlopen(address + path) as answer:
        return json.load(answer)


def counted(address: str) -> Count:
    """What our server's engine counts."""
    stats = ask(address, "/engine/stats")
    return Count(stats["passes"], stats["tokens"], {name: stats[name] for name in _COUNTED})


def drafted(address: str) -> Count:
    """As `counted`; where answers are drafted, only passes over these, and the tokens they gave."""
    stats = ask(address, "/engine/stats")
    drafts = stats.get("drafts") or stats
    return Count(drafts["passes"], drafts["tokens"], {name: stats[name] for name in _COUNTED})


def decoded(address: str) -> Count:
    """What llama.cpp's server says of its slots: the tokens that each has written."""
    written = [slot["next_token"][0]["n_decoded"] for slot in ask(address, "/slots")]
    return Count(max(written), sum(written))


def steady(
    streams: Streams, count: Callable[[], Count], *, skip: int, passes: int, seconds: float
) -> Steady:
    """Tokens between two ends of passes, of which `passes` lie between.

    Fewer after `seconds`, or where a stream has come to its end: up to the last one before that.

    Args:
        skip: passes to leave out before, once all streams write.

    Raises:
        EngineError: a stream ended before.
    """
    while streams.least < 1:
        _going(streams, _LEAST_PAUSE)
    begun = count().passes
    start, began = _moved(streams, count, begun + skip)
    late = time.monotonic() + seconds
    now, at = _moved(streams, count, start.passes)
    with suppress(_EndedError):
        while now.passes < start.passes + passes and time.monotonic() < late:
            now, at = _moved(streams, count, now.passes)
    passed = now.passes - start.passes
    others = {name: (now.others[name] - start.others[name]) / passed for name in now.others}
    return Steady(passed, now.tokens - start.tokens, at - began, others)


def _moved(streams: Streams, count: Callable[[], Count], beyond: int) -> tuple[Count, float]:
    """The first count with more passes than `beyond`, and when: all streams wrote until then."""
    while True:
        written = streams.written
        now, at = count(), time.monotonic()
        if now.passes > beyond and streams.writing:
            return now, at
        _told(streams, written)


def _told(streams: Streams, written: int) -> None:
    """Wait until the streams have more tokens: asking the server meanwhile slows it down."""
    pause = _LEAST_PAUSE
    while streams.written == written:
        _going(streams, pause)
        # Passes of a small model are over before others are worth a look.
        pause = min(2 * pause, _POLL_SECONDS)


def _going(streams: Streams, pause: float) -> None:
    time.sleep(pause)
    if not streams.writing:
        raise _EndedError("a stream ended before it was counted; give a larger --ctx")
