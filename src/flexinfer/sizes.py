"""Byte sizes as people write them (``6GiB``, ``6144M``), the one reads align to, and figures."""

from __future__ import annotations

import re
from decimal import Decimal

from flexinfer.errors import SizeError

# Every drive and file system that takes direct reads at all takes them at this alignment, of the
# file and of memory; 512, where it works, saves nothing measurable on weights of megabytes.
ALIGNMENT = 4096

_FORM = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:([kmgt])(i?)(b?)|b)?\s*", re.IGNORECASE)
_SHARE = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%\s*")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str | int) -> int:
    """Bytes in `text`; ``GiB`` and plain ``G`` count in 1024s, ``GB`` in 1000s.

    Raises:
        SizeError: the text is no size, or it is not positive.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = _FORM.fullmatch(str(text))
        if match is None:
            raise SizeError(f"{text!r} is not a size; write it as 6GiB, 6GB or 6144M")
        number, unit, binary, byte = match.groups()
        base = 1000 if byte and not binary else 1024
        size = int(float(number) * base ** _POWER[(unit or "").lower()])
    if size <= 0:
        raise SizeError(f"{text!r} is not a size above zero")
    return size


def optional_size(text: str | int | None) -> int | None:
    """Bytes in `text`, or None where there is none.

    Raises:
        SizeError: as `parse_size`.
    """
    return None if text is None else parse_size(text)


def is_share(text: object) -> bool:
    """Whether `text` means to be a share."""
    return isinstance(text, str) and text.rstrip().endswith("%")


def parse_share(text: str) -> float:
    """The fraction that a share such as ``50%`` is.

    Raises:
        SizeError: the text is no share, or it is not positive.
    """
    match = _SHARE.fullmatch(text)
    if match is None:
        raise SizeError(f"{text!r} is not a share; write it as 50%")
    share = float(match[1]) / 100
    if share <= 0:
        raise SizeError(f"{text!r} is not a share above 0%")
    return share


def format_size(nbytes: float) -> str:
    """`nbytes` in the largest binary unit that keeps it at 1 or above."""
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} B" if unit == "B" else f"{_digits(size)} {unit}"


def format_figure(value: float) -> str:
    """`value` in three digits, never with an exponent: a rate of tokens, a ratio, a time."""
    text = f"{value:.3g}"
    return f"{Decimal(text):f}" if "e" in text else text


def _digits(size: float) -> str:
    digits = 2 if abs(size) < 10 else 1 if abs(size) < 100 else 0
    return f"{size:.{digits}f}"
