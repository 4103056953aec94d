"""Text from outside: decoded in one way, and shown in one way, whoever wrote it."""

from __future__ import annotations

import os
import re

from flexinfer.errors import RequestError

# What makes a terminal do something instead of showing a sign: C0 but line end and tab, DEL, C1,
# marks that change the order or the place of what is around them, halves of characters.
_ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff]"
)
_LINES = re.compile(r"[\t\n]+")
_ESCAPED_BYTE = range(0xDC80, 0xDD00)
_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip"}


class FileName(str):
    """A path whose bytes are those that the system has, where others would take it for UTF-8."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return os.fsencode(str(self))


def decode(raw: bytes, what: str) -> str:
    """`raw` as the UTF-8 text that it has to be; a byte order mark before it is left out.

    Raises:
        RequestError: it is none; names `what`, the byte and where it is.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        known = _ENCODINGS.get(raw[:2])
        guess = f" (it looks like {known})" if known else ""
        raise RequestError(
            f"{what} is no UTF-8 text: byte {raw[error.start]:#04x} at {error.start}{guess}; "
            "convert it, as iconv does"
        ) from error


def typed(text: str, what: str) -> str:
    """`text` of a command line or a terminal, whose bytes Python may have kept as halves.

    Raises:
        RequestError: its bytes are no UTF-8; names `what`.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        try:
            raw = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise RequestError(
                f"{what} has half a character at {error.start}, which is no text; remove it"
            ) from error
        return decode(raw, what)
    return text


def shown(text: str) -> str:
    """`text` such that a terminal shows it and does nothing else; lines stay lines.

    It may be a piece of a longer one: a line's end may be cut in two.
    """
    return _ACTS.sub(_escape, text.replace("\r\n", "\n").removesuffix("\r"))


def one_line(text: str | os.PathLike[str]) -> str:
    """`text`, a name or a message, as one line that a terminal only shows."""
    return shown(_LINES.sub(" ", os.fspath(text).strip()))


def shown_value(value: object) -> str:
    """`value` as a message has it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number in _ESCAPED_BYTE:
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
