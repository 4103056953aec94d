"""Standard streams: full, closed or gone, in any encoding, none of them takes a command along.

A log that nobody can read is dropped. A result that nobody can read ends the command with
`OutputLost`. Descriptors that were closed are taken by nothing, so that no file gets their numbers.
What a signal interrupts is written once or not at all.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, BinaryIO, cast

import click

from flexinfer.text import one_line

_LIKE = {
    **dict(zip("█▓▒░·◂…│─—–", "#%+:.<~|---", strict=True)),
    **dict(zip("‘’“”", "''\"\"", strict=True)),
}
_ERRORS = "flexinfer.shown"
_BYTE_HALVES = range(0xDC80, 0xDD00)


class OutputLost(Exception):
    """What a command says cannot be written.

    Attributes:
        gone: whoever read it left, and needs no message.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {(error.strerror or '').lower()}")
        # EIO is what a terminal that was closed answers.
        self.gone = error.errno in (errno.EPIPE, errno.EIO)


class _Output(io.FileIO):
    """The descriptor of a result; once it is lost, what comes after is dropped."""

    lost = False

    def write(self, data: Any) -> int:
        left = memoryview(data)
        try:
            while left and not self.lost:
                written = super().write(left)
                if written is None:
                    select.select([], [self], [])
                left = left[written or 0 :]
        except OSError as error:
            self.lost = True
            raise OutputLost(error) from error
        return len(data)


class _Log(io.FileIO):
    """The descriptor of a log; what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        left = memoryview(data)
        with contextlib.suppress(OSError):
            while left and (written := super().write(left)):
                left = left[written:]
        return len(data)


def open_streams() -> None:
    """Put streams in place that bear whatever standard input, output and error are.

    Raises:
        OutputLost: standard output is closed.
    """
    codecs.register_error(_ERRORS, _as_shown)
    closed = _fill_closed()
    sys.stdin = _reading()
    sys.stderr = _writing(_Log(2, "w", closefd=False), sys.stderr)
    if 1 in closed:
        raise OutputLost(OSError(errno.EBADF, "it is closed"))
    sys.stdout = _writing(_Output(1, "w", closefd=False), sys.stdout)


def say(text: str = "", *, nl: bool = True) -> None:
    """Write a result, or a part of one, and a line's end."""
    # Left to itself, click would take another stream where the encoding has few signs.
    click.echo(text, sys.stdout, nl=nl)


def log(text: str = "", *, nl: bool = True) -> None:
    """Write to the log what is no result."""
    click.echo(text, sys.stderr, nl=nl)


def log_line(said: object) -> None:
    """Write to the log, in one line, what an engine tells while it goes on."""
    log(one_line(str(said)))


def flush() -> None:
    """Have everything written that is to be.

    Raises:
        OutputLost: it cannot be.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _fill_closed() -> set[int]:
    closed = set()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
    return closed


def _reading() -> io.TextIOWrapper:
    """Bytes that are no text stay in what is read, so that it can be said where they are."""
    if sys.stdin is None:
        return io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    assert isinstance(sys.stdin, io.TextIOWrapper)
    sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _writing(raw: io.FileIO, before: Any) -> io.TextIOWrapper:
    encoding = _able(getattr(before, "encoding", None) or "utf-8")
    # No buffer between: one writes again what a signal's exception met after the system took it.
    return io.TextIOWrapper(
        cast("BinaryIO", raw),
        encoding=encoding,
        errors=_ERRORS,
        line_buffering=raw.isatty() or isinstance(raw, _Log),
    )


def _able(encoding: str) -> str:
    """`encoding`, or UTF-8 where that bears no signs which stand for others."""
    try:
        "─".encode(encoding, _ERRORS)
    except (LookupError, UnicodeError):
        return "utf-8"
    return encoding


def _as_shown(error: UnicodeError) -> tuple[str, int]:
    """What stands for signs that the encoding does not have."""
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(map(_stand_in, signs)), error.end


def _stand_in(sign: str) -> str:
    if ord(sign) in _BYTE_HALVES:
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return _LIKE.get(sign) or sign.encode("ascii", "backslashreplace").decode()
