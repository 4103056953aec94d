"""Text from outside: what is let in, and what a terminal gets to see of it."""

from __future__ import annotations

import os
import re

import pytest

from flexinfer.errors import RequestError
from flexinfer.text import decode, one_line, shown, typed


def test_utf_8_is_let_in_with_or_without_its_mark() -> None:
    assert decode("é\r\n€".encode(), "it") == "é\r\n€"
    assert decode(b"\xef\xbb\xbfone", "it") == "one"
    assert typed("é€", "it") == "é€"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"ab\xe9", "byte 0xe9 at 2; convert it"),
        ("hé".encode("utf-16"), "byte 0xff at 0 (it looks like UTF-16)"),
        (b"\x1f\x8b\x08", "byte 0x8b at 1 (it looks like gzip)"),
        (b"\xed\xa0\x80", "byte 0xed at 0"),
    ],
)
def test_what_is_no_utf_8_is_named_byte_by_byte(raw: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(f"the file is no UTF-8 text: {said}")):
        decode(raw, "the file")
    # As Python hands over a command line.
    with pytest.raises(RequestError, match=re.escape(said)):
        typed(raw.decode("utf-8", "surrogateescape"), "the file")


def test_typed_bytes_that_are_text_are_text() -> None:
    """In a locale of ASCII, Python keeps each byte of a character as a half."""
    assert typed("é".encode().decode("ascii", "surrogateescape"), "it") == "é"
    with pytest.raises(RequestError, match="half a character at 1"):
        typed("a\ud83d", "it")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\tb\nc é 漢 👩‍🚀", "a\tb\nc é 漢 👩‍🚀"),
        ("one\r\ntwo\r", "one\ntwo"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x08\x7f", "a\\x0db\\x08\\x7f"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),
        ("\u202eevil\u202c \u2066\u200f", "\\u202eevil\\u202c \\u2066\\u200f"),
        (os.fsdecode(b"\xff.gguf"), "\\xff.gguf"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_a_terminal_is_told_nothing(text: str, seen: str) -> None:
    assert shown(text) == seen


def test_a_name_is_one_line() -> None:
    assert one_line(" two\nlines\tof\x1b[31m it ") == "two lines of\\x1b[31m it"


def test_nothing_that_acts_is_left() -> None:
    left = shown("".join(map(chr, range(0x3000))))
    acting = [sign for sign in left if ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0]
    assert set(acting) == {"\t", "\n"}
    left.encode()
