"""Questions whose whole answers are known: a grammar leaves the model no other tag and length."""

from __future__ import annotations

import json
import random
import time
from http.client import HTTPResponse
from typing import Any

LETTERS = 24
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


def question(
    client: int, number: int, draw: random.Random, *, stream: bool
) -> tuple[str, bytes, str]:
    """Path, body, and how the answer has to begin: a grammar leaves the model no other way."""
    tag = f"{client}-{number}:"
    grammar = f'root ::= "{tag}" [a-z]{{{LETTERS}}}'
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


def whole(answer: HTTPResponse) -> tuple[str, float]:
    """The text of an answer that comes at once, and when it came."""
    return _text(json.loads(answer.read())), time.monotonic()


def streamed(answer: HTTPResponse) -> tuple[str, float]:
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
