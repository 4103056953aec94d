"""Counting streams between two ends of passes, with a server that is only a script of counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flexinfer.bench import streams
from flexinfer.bench.streams import Count, Steady, Streams, steady
from flexinfer.errors import EngineError


class Writing(Streams):
    """Streams that all write, until `ends` looks later."""

    def __init__(self, ends: int = 1000) -> None:
        self._looks = iter(range(ends))
        self._written = [0]
        self._ended = False

    @property
    def least(self) -> int:
        return 1

    @property
    def writing(self) -> bool:
        self._ended = next(self._looks, None) is None
        return not self._ended

    @property
    def written(self) -> int:
        self._written[0] += not self._ended
        return self._written[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(streams, "_LEAST_PAUSE", 0.0)


def passes(each: int) -> Iterator[Count]:
    """Each pass is seen twice, and has tokens of `each` streams."""
    number = 5
    while True:
        yield Count(number, 100 + each * number)
        yield Count(number, 100 + each * number)
        number += 1


def test_tokens_are_counted_from_one_end_of_a_pass_to_another() -> None:
    counts = passes(8)
    found = steady(Writing(), lambda: next(counts), skip=3, passes=4, seconds=60)
    assert (found.passes, found.tokens) == (4, 32)
    # What comes next is the pass after the last that was counted.
    assert next(counts).passes == 5 + 3 + 1 + 4


def test_a_slow_server_is_counted_for_one_pass_at_least() -> None:
    counts = passes(2)
    found = steady(Writing(), lambda: next(counts), skip=0, passes=9, seconds=0)
    assert (found.passes, found.tokens) == (1, 2)


def test_a_stream_that_ends_before_a_pass_was_counted_is_said() -> None:
    counts = passes(2)
    with pytest.raises(EngineError, match="ended before it was counted; give a larger --ctx"):
        steady(Writing(ends=1), lambda: next(counts), skip=0, passes=9, seconds=60)


def test_passes_before_a_stream_ends_are_counted() -> None:
    counts = passes(2)
    found = steady(Writing(ends=4), lambda: next(counts), skip=0, passes=9, seconds=60)
    assert (found.passes, found.tokens) == (3, 6)


def test_a_rate_is_of_all_streams() -> None:
    assert Steady(4, 32, 8.0).tok_s == 4.0
