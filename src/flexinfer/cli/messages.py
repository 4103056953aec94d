"""Messages as they are typed: one a line, a line that goes on, a block between quotes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from flexinfer.errors import RequestError
from flexinfer.sizes import format_size
from flexinfer.text import typed

_BLOCK = '"""'
# No context holds more, and what never ends is no message.
_MOST = 64 << 20


class EndlessLine(RequestError):
    """A line that is too long to be one; there is no reading on after it."""


def read_message() -> str | None:
    """The next message; None when there is none any more, "" for an empty line.

    Raises:
        RequestError: it is no text.
        KeyboardInterrupt: Ctrl-C was pressed; what was typed of it is dropped.
    """
    line = _line("> ")
    if line is None:
        return None
    if line.strip() == _BLOCK:
        return typed("\n".join(_block()), "the message")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        more = _line(". ")
        if more is None:
            break
        lines.append(more)
    return typed("\n".join(lines), "the message")


def _block() -> Iterator[str]:
    while (line := _line(". ")) is not None and line != _BLOCK:
        yield line


def _line(prompt: str) -> str | None:
    """The next line without its end; None where input ends, or cannot be read any more."""
    try:
        if sys.stdin.isatty():
            return input(prompt)
        line = sys.stdin.readline(_MOST + 1)
    except (EOFError, OSError):
        return None
    if len(line) > _MOST:
        raise EndlessLine(f"a line has more than {format_size(_MOST)}; end it earlier")
    return line.removesuffix("\n") if line else None
