"""Requests that begin alike, brought together: what they share is computed once a slot.

A slot keeps what its last request computed, and the server gives a request to the free slot that
holds the most of it. Where requests of several beginnings alternate, none holds any.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from flexinfer.batch.requests import BadLine, Request

# So many characters of requests are held in memory, and one may overtake others among them.
AHEAD = 512 << 10
# Requests begin alike by so many characters: those that also share more stand together within.
_ALIKE = (8192, 1024, 128)

Asked = Request | BadLine


def brought_together(asked: Iterable[Asked], ahead: int = AHEAD) -> Iterator[Asked]:
    """`asked` with those together that begin alike, at the place of the first; else in its order.

    Looks `ahead` characters ahead.
    """
    held: list[tuple[str, Asked]] = []
    room = ahead
    for one in asked:
        text = _text(one)
        held.append((text, one))
        room -= len(text)
        if room <= 0:
            yield from _ordered(held)
            held, room = [], ahead
    yield from _ordered(held)


def _ordered(held: list[tuple[str, Asked]]) -> list[Asked]:
    for length in _ALIKE:
        groups: dict[str, list[tuple[str, Asked]]] = {}
        for text, one in held:
            groups.setdefault(text[:length], []).append((text, one))
        held = [each for group in groups.values() for each in group]
    return [one for _, one in held]


def _text(one: Asked) -> str:
    """What is computed for a request, as a text that begins as it does."""
    if isinstance(one, BadLine):
        return f"line {one.line}"
    return f"{one.url} {json.dumps(one.body.get('messages') or one.body.get('prompt'))}"
