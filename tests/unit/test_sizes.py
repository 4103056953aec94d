from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexinfer.errors import SizeError
from flexinfer.sizes import format_figure, format_size, optional_size, parse_size


def test_no_size_stays_none() -> None:
    assert optional_size(None) is None
    assert optional_size("1K") == 1024
    with pytest.raises(SizeError):
        optional_size("")


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4096", 4096),
        ("4096b", 4096),
        ("6GiB", 6 << 30),
        ("6 gib", 6 << 30),
        ("6GB", 6 * 10**9),
        ("6G", 6 << 30),
        ("6Gi", 6 << 30),
        ("6144M", 6 << 30),
        ("1.5g", 3 << 29),
        (" 2 TiB ", 2 << 40),
        ("1kB", 1000),
        (123, 123),
    ],
)
def test_sizes_as_people_write_them(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "6PB", "-1", "0", "0.1", "1e9", "6i", "6GiBB", "1.G", "nan", "9" * 400 + "G", True],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SizeError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


def test_size_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="6GiB, 6GB or 6144M"):
        parse_size("much")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (20 << 20, "20.0 MiB"),
        (700 << 20, "700 MiB"),
        (3 << 29, "1.50 GiB"),
        (5 << 40, "5120 GiB"),
        (-(3 << 29), "-1.50 GiB"),
    ],
)
def test_format(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text


@given(st.integers(1, 1 << 60))
def test_what_is_formatted_can_be_parsed_closely(nbytes: int) -> None:
    assert parse_size(format_size(nbytes)) == pytest.approx(nbytes, rel=0.006)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (0.4761, "0.476"),
        (9.687, "9.69"),
        (1234.5, "1230"),
        (0.00001234, "0.0000123"),
        (-2500.0, "-2500"),
        (float("inf"), "inf"),
    ],
)
def test_figures_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert format_figure(value) == text
