"""Drafts beside what a model chose: counted, learned from, cut to what fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.drafted import AlwaysSome

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.planning.drafted import rows_of
from flexinfer.speculate.choice import check_draftable, is_file
from flexinfer.speculate.drafts import Drafts, DraftStats


class Ones:
    """Drafts ones."""

    token_us = 0

    def draft(self, known: object, most: int) -> list[int]:
        return [1] * most


class Four(AlwaysSome):
    def length(self) -> int:
        return 4


@pytest.fixture
def drafts() -> Drafts:
    return Drafts(Ones(), Four(4), lambda known: 20 - known)


def test_accepted_tokens_are_those_before_the_last(drafts: Drafts) -> None:
    assert list(drafts([5, 6])) == [1, 1, 1, 1]
    assert drafts.are([6, 1, 1, 1, 1])
    assert not drafts.are([6])
    drafts([5, 6, 1, 1, 7])
    assert drafts.stats == DraftStats(drafted=4, accepted=2, passes=1, tokens=3)
    drafts([5, 6, 1, 1, 7, 1, 1, 1, 1, 8])
    assert drafts.stats == DraftStats(drafted=8, accepted=6, passes=2, tokens=8)
    assert drafts.stats.tokens_a_pass == 4
    assert str(drafts.stats - DraftStats(4, 2, 1, 3)) == (
        "4 of 4 drafted tokens accepted, 5.00 tokens a pass"
    )
    assert repr(drafts) == "<Drafts 6 of 8 accepted>"


def test_an_answer_that_ends_within_a_draft(drafts: Drafts) -> None:
    drafts([5, 6])
    drafts.finish(4)
    assert drafts.stats == DraftStats(drafted=4, accepted=1, passes=1, tokens=2)
    assert not drafts.are([6, 1, 1, 1, 1])
    drafts([9] * 10)
    assert drafts.stats.passes == 1, "another answer does not settle the one before"


def test_what_the_context_has_no_room_for_is_not_drafted(drafts: Drafts) -> None:
    assert list(drafts([5] * 18)) == [1, 1]
    assert list(drafts([5] * 20)) == []


def test_who_cannot_be_drafted_for() -> None:
    check_draftable("m", "llama", recurrent=False)
    with pytest.raises(UnsupportedError, match="m keeps a state from which no token"):
        check_draftable("m", "mamba", recurrent=True)
    with pytest.raises(UnsupportedError, match="m takes cells of its cache back in another"):
        check_draftable("m", "gemma3", recurrent=False, wraps=True)
    with pytest.raises(UnsupportedError, match="m has layers elsewhere"):
        check_draftable("m", "llama", recurrent=False, elsewhere=True)
    with pytest.raises(UnsupportedError, match="m forbids its tokens of images"):
        check_draftable("m", "chameleon", recurrent=False)


def test_ways_of_drafting() -> None:
    assert [is_file(wish) for wish in ("off", "ngram", "auto", "m.gguf", Path("m.gguf"), "/")] == [
        *(False, False, False, True, True, True)
    ]
    for wish in ("often", "", None, 3):
        with pytest.raises(RequestError, match=f"draft={wish!r} is no way of drafting"):
            is_file(wish)
    assert (rows_of("off"), rows_of("ngram")) == (0, 16)
