"""Numbers that options take, and what is none."""

from __future__ import annotations

import click
import pytest

from flexinfer.cli.numbers import TOKENS, Count, Fraction
from flexinfer.cli.options import AUTO, Budget


@pytest.mark.parametrize("written", ["nan", "inf", "-1", "2", "x"])
def test_what_is_no_number_within_the_bounds_is_refused(written: str) -> None:
    with pytest.raises(click.BadParameter):
        Fraction(0, 1).convert(written, None, None)


def test_a_number_is_taken_as_it_is() -> None:
    assert Fraction(0, 1).convert("0.25", None, None) == 0.25
    with pytest.raises(click.BadParameter, match="inf is no number"):
        Fraction(0).convert("inf", None, None)


@pytest.mark.parametrize("written", ["1e9", "0x10", "1_0", "\u0663", " 5", "", "NaN", "9" * 50])
def test_a_count_is_plain_digits(written: str) -> None:
    with pytest.raises(click.BadParameter, match="is no whole number; write it in digits"):
        Count(1).convert(written, None, None)


def test_counts_have_bounds() -> None:
    assert Count(-1).convert("-1", None, None) == -1
    assert TOKENS.convert("2147483647", None, None) == 2147483647
    for beyond in ("0", "2147483648"):
        with pytest.raises(click.BadParameter, match="is not in the range 1<=x<=2147483647"):
            TOKENS.convert(beyond, None, None)


@pytest.mark.parametrize(
    ("written", "said"),
    [("150%", "up to 100%"), ("0%", "above 0%"), ("-5%", "is not a share; write it as 50%")],
)
def test_a_share_that_is_none_is_named_as_one(written: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        Budget().convert(written, None, None)


def test_auto_is_known_in_any_case() -> None:
    assert Budget().convert(" AUTO", None, None) == AUTO
