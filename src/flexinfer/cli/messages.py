"""Messages as they are typed: one a line, a line that goes on, a block between quotes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

_BLOCK = '"""'


def messages() -> Iterator[str]:
    """What is typed, message by message; Ctrl-C at the prompt drops the line."""
    while True:
        try:
            text = _message()
        except EOFError:
            return
        except KeyboardInterrupt:
            click.echo(err=True)
            continue
        if text.strip():
            yield text


def _message() -> str:
    shown = sys.stdin.isatty()
    line = input("> " if shown else "")
    if line.strip() == _BLOCK:
        return "\n".join(iter(lambda: input(". " if shown else ""), _BLOCK))
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". " if shown else ""))
    return "\n".join(lines)
