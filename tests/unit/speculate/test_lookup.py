"""Drafts from what was written before."""

from __future__ import annotations

from flexinfer.speculate.lookup import Lookup


def test_what_followed_the_same_tokens() -> None:
    assert Lookup().draft([1, 2, 3, 4, 5, 9, 1, 2], 3) == [3, 4, 5]


def test_the_longest_match_comes_first_then_the_latest() -> None:
    known = [1, 2, 3, 4, 5, 70, 8, 4, 5, 71, 6, 4, 5, 72, 1, 2, 3, 4, 5]
    assert Lookup().draft(known, 1) == [70]
    assert Lookup().draft([*known[5:14], 4, 5], 1) == [72]


def test_nothing_recurs() -> None:
    assert Lookup().draft([1, 2, 3, 4, 5, 6], 4) == []
    assert Lookup().draft([1], 4) == []
    assert Lookup().draft([], 4) == []
    assert Lookup().draft([5, 1, 6, 1], 4) == [], "one token alone says nothing"


def test_what_repeats_itself_goes_on() -> None:
    assert Lookup().draft([1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]
    assert Lookup().draft([7, 7, 7], 4) == [7, 7, 7, 7]


def test_a_text_that_grows_is_as_one_that_is_new() -> None:
    text = [(n * n) % 7 for n in range(60)]
    growing = Lookup()
    for end in range(2, len(text)):
        assert growing.draft(text[:end], 4) == Lookup().draft(text[:end], 4), end


def test_another_text_is_begun_anew() -> None:
    lookup = Lookup()
    lookup.draft([1, 2, 3, 4, 1, 2], 2)
    assert lookup.draft([5, 6, 1, 2], 2) == []
    assert lookup.draft([1, 2, 3, 9, 1, 2], 2) == [3, 9], "a text that was taken back in part"
