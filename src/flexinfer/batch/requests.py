"""A batch file: one request a line, in OpenAI's format, read without trust."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexinfer.errors import RequestError
from flexinfer.sizes import format_size

# No server takes as much in one request.
_MOST_BYTES = 128 << 20

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


@dataclass(frozen=True)
class Request:
    """What one line asks: `body` is to be posted to `url`."""

    line: int
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class BadLine:
    """A line that asks nothing that can be answered; `why` is a sentence."""

    line: int
    custom_id: str | None
    why: str


def read_requests(path: Path) -> Iterator[Request | BadLine]:
    """The lines of a batch file in their order, numbered from 1; empty ones are left out.

    Raises:
        RequestError: the file cannot be read, or has an endless line.
    """
    try:
        with path.open("rb") as file:
            seen: set[str] = set()
            lines = iter(lambda: file.readline(_MOST_BYTES + 1), b"")
            for number, text in enumerate(lines, 1):
                if len(text) > _MOST_BYTES:
                    raise RequestError(
                        f"line {number} of {path} has more than {format_size(_MOST_BYTES)}; give "
                        "a file with a request on each line"
                    )
                if text.strip():
                    yield _read(number, text, seen)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error


def _read(number: int, text: bytes, seen: set[str]) -> Request | BadLine:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadLine(number, None, f"line {number} is no JSON: {error}")
    if not isinstance(document, dict):
        return BadLine(number, None, f"line {number} is no JSON object")
    custom_id = document.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return BadLine(number, None, f'line {number} has no "custom_id", a text that names it')
    why = _fault(document) or (
        f"custom_id {custom_id!r} stands on a line before" if custom_id in seen else None
    )
    seen.add(custom_id)
    if why is not None:
        return BadLine(number, custom_id, f"line {number}: {why}")
    return Request(number, custom_id, document["url"], document["body"])


def _fault(document: dict[str, Any]) -> str | None:
    if document.get("method", "POST") != "POST":
        return f"method {document['method']!r} is not POST"
    if document.get("url") not in ROUTES:
        return f"url {document.get('url')!r} is none of {', '.join(ROUTES)}"
    body = document.get("body")
    if not isinstance(body, dict):
        return '"body" is no JSON object'
    if body.get("stream"):
        return 'a batch gives whole answers; leave "stream" out'
    return None
