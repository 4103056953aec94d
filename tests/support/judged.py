"""Answers held against what any request may get: whole, well-formed, never a server's fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPMessage
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from support.drawn_requests import Asked, requests

# Nothing that is asked of a model this small takes longer.
_SECONDS = 90
_PUBLIC = ("/", "/health")
# What makes a request no sound HTTP: such a connection may simply be closed.
_ODD = ("Expect", "Upgrade", "Transfer-Encoding")
# How a stream of each kind says that it is complete.
_ENDS = ("[DONE]", '"stop":true', "message_stop", "response.completed", '"error"')


def drawn(count: int, number: int) -> list[Asked]:
    """Some requests, always the same ones for a number."""
    found: list[Asked] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def keep(asked: Asked) -> None:
        found.append(asked)

    keep()
    return found


def problems(
    port: int, requests: Sequence[Asked], together: int, counts: Counter[str]
) -> list[str]:
    """Ask them all, some at a time; a line for each answer that should not have been."""
    with ThreadPoolExecutor(together) as pool:
        found = pool.map(lambda asked: _problem(port, asked, counts), requests)
        return [
            f"{problem}: {asked}"
            for problem, asked in zip(found, requests, strict=True)
            if problem is not None
        ]


def _problem(port: int, asked: Asked, counts: Counter[str]) -> str | None:
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request(asked.method, asked.path, asked.body, asked.headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException) as error:
        if not isinstance(error, TimeoutError) and asked.headers.keys() & set(_ODD):
            counts["closed"] += 1
            return None
        return f"no answer ({error!r})"
    finally:
        connection.close()
    counts[str(answer.status)] += 1
    return _fault(asked, answer.status, answer.headers, body)


def _fault(asked: Asked, status: int, headers: HTTPMessage, body: bytes) -> str | None:
    path = asked.path.partition("?")[0]
    if not asked.right and path not in _PUBLIC and asked.method != "OPTIONS" and status < 400:
        return f"{status} without the key"
    allowed = headers.get("Access-Control-Allow-Origin")
    if allowed in ("*", "null", "https://evil.example"):
        return f"open to {allowed}"
    if asked.method == "HEAD" or asked.method == "OPTIONS":
        return f"{status}" if status >= 500 else None
    if status >= 400:
        return _refusal(status, body)
    if status == 204:
        return f"{len(body)} bytes beside 204" if body else None
    kind = headers.get_content_type()
    if kind == "text/event-stream":
        return _stream(body.decode())
    if kind == "application/json":
        json.loads(body)
    return None


def _refusal(status: int, body: bytes) -> str | None:
    """A fault of the sender, or something that this server does not do, in one sentence."""
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{status} without a sentence ({body[:200]!r})"
    if not (status < 500 or status == 501) or not str(said).strip():
        return f"{status} ({said})"
    return None


def _stream(text: str) -> str | None:
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    for event in events:
        document: Any = {} if event == "[DONE]" else json.loads(event)
        error = document.get("error") if isinstance(document, dict) else None
        if error and not 400 <= error.get("code", 500) < 500:
            return f"an error in a stream ({event[:300]})"
    if not events or not any(end in text for end in _ENDS):
        return f"a stream without an end ({text[-200:]!r})"
    return None
