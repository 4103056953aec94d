"""Drafts by a smaller model: what it writes, what it forgets, what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.speculate.by_model import ByModel


class Counting:
    """Writes the number after the last token; each pass over it takes a millisecond."""

    def __init__(self, room: int = 50) -> None:
        self.room = room
        self.known: list[int] = []
        self.batches: list[list[int]] = []
        self.now = 0.0

    def forget_from(self, count: int) -> None:
        self.known = self.known[:count]

    def compute(self, tokens: Sequence[int]) -> int:
        self.known += tokens
        self.batches.append(list(tokens))
        self.now += 0.001
        return self.known[-1] + 1


def test_it_goes_on_with_the_text_and_computes_only_what_is_new() -> None:
    writer = Counting()
    source = ByModel(writer, 500, lambda: writer.now)
    assert source.draft([7, 8, 9], 3) == [10, 11, 12]
    assert writer.batches == [[7, 8, 9], [10], [11]]
    # Two were right: what follows is one token that it had not chosen.
    assert source.draft([7, 8, 9, 10, 11, 40], 2) == [41, 42]
    assert writer.batches[3:] == [[40], [41]]
    assert writer.known == [7, 8, 9, 10, 11, 40, 41]


def test_another_text_and_the_same_again() -> None:
    writer = Counting()
    source = ByModel(writer, 500, lambda: writer.now)
    source.draft([1, 2, 3], 1)
    assert source.draft([1, 5, 6], 1) == [7]
    assert writer.batches[-1] == [5, 6]
    assert source.draft([1, 5, 6], 1) == [7]
    assert writer.batches[-1] == [6], "the last is computed again"


def test_what_its_context_does_not_hold_is_not_drafted() -> None:
    writer = Counting(room=10)
    source = ByModel(writer, 500, lambda: writer.now)
    assert len(source.draft(range(8), 5)) == 2
    assert source.draft(range(10), 5) == []
    assert source.draft(range(12), 5) == []


def test_the_time_of_a_token_is_learned_but_not_from_reading_a_prompt() -> None:
    writer = Counting()
    source = ByModel(writer, 500, lambda: writer.now)
    source.draft(range(20), 4)
    assert source.token_us == 500
    for known in range(21, 40):
        source.draft(range(known), 4)
    assert 950 < source.token_us <= 1000
    assert repr(source) == f"<ByModel, {source.token_us} us a token>"
