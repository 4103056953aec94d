"""Numbers that options take, and what is none."""

from __future__ import annotations

import click
import pytest

from flexinfer.cli.options import Fraction


@pytest.mark.parametrize("written", ["nan", "inf", "-1", "2", "x"])
def test_what_is_no_number_within_the_bounds_is_refused(written: str) -> None:
    with pytest.raises(click.BadParameter):
        Fraction(0, 1).convert(written, None, None)


def test_a_number_is_taken_as_it_is() -> None:
    assert Fraction(0, 1).convert("0.25", None, None) == 0.25
    with pytest.raises(click.BadParameter, match="inf is no number"):
        Fraction(0).convert("inf", None, None)
