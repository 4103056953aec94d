"""How many tokens are drafted, in integers and by traces of accepted tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flexinfer.planning.drafted import expected_tokens
from flexinfer.planning.many import RowTimes
from flexinfer.speculate.policy import FIRST, MOST, SHARE, PassTimes, Policy

# A pass reads for 100 ms and computes a row in 10 and each further one in 6.
STREAMED = (100_000, RowTimes(((1, 0.010), (32, 0.196))))
# A pass computes for 20 ms, and each further row takes as long.
IN_MEMORY = (20_000, RowTimes(((1, 0.020),)))

# Of 8 drafted tokens each: how many were right in a copied passage, and in one that is new.
COPYING = (8, 8, 8, 5, 8, 8, 8, 8, 3, 8, 8, 8, 8, 8, 8)
INVENTING = (0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0)
# Drafts of 8 tokens from n-grams while SmolLM2 135M Instruct told a story of 260 tokens, drawn at
# temperature 0.8: how many were right, pass by pass; a dot where nothing was found to draft.
STORY = (
    ".............0................0.0..............0............................0......."
    ".......00.....................0.0.....0......0.0..00.............0....1..0.......0.."
    "00...0..0.1..01....1......0..0.....0..0.....0..0......1....000..0...14.....1...0"
)
TELLING = tuple(-1 if came == "." else int(came) for came in STORY)


def run(policy: Policy, right: tuple[int, ...], passes: int, *, learn: bool = True) -> list[int]:
    """What is drafted pass by pass when so many of each draft are right."""
    lengths = []
    for number in range(passes):
        length = policy.length()
        lengths.append(length)
        policy.note(length, min(length, right[number % len(right)]))
        if learn:
            policy.times.note(1 + length, 20_000 * (1 + length))
    return lengths


def lost(policy: Policy, right: tuple[int, ...], passes: int) -> float:
    """The share of the plain rate that drafts cost when so many of each are right, where found.

    -1 in `right` is a pass for which nothing was found that could be drafted.
    """
    alone, seconds, tokens = policy.times.of(1), 0.0, 0
    for number in range(passes):
        came = right[number % len(right)]
        wanted = policy.length()
        length = wanted if came >= 0 else 0
        accepted = min(length, max(came, 0))
        policy.note(length, accepted)
        seconds += policy.times.of(1 + length) + length * policy.token_us
        tokens += 1 + accepted
    return 1.0 - tokens * alone / seconds


@pytest.mark.parametrize("row_ms", [0, 1, 3, 10, 20, 30, 50, 80, 100, 150])
@pytest.mark.parametrize("right", [(0,), INVENTING, TELLING])
def test_what_is_new_costs_next_to_nothing(row_ms: int, right: tuple[int, ...]) -> None:
    times = RowTimes(((1, 0.1), (33, 0.1 + 0.032 * row_ms)))
    for passes in (100, 200, 400, 1000):
        policy = Policy(PassTimes(100_000, times), 15)
        assert lost(policy, right, passes) * passes <= SHARE * passes + FIRST
    assert lost(Policy(PassTimes(100_000, times), 15), right, 200) < 0.02
    # After drafts that were right, as much as those may be wrong.
    policy = Policy(PassTimes(100_000, times), 15)
    run(policy, (15,), 50, learn=False)
    assert lost(policy, right, 400) * 400 <= SHARE * 400 + MOST


def test_a_model_that_drafts_in_vain_costs_as_little() -> None:
    policy = Policy(PassTimes(*STREAMED), 15, token_us=8_000)
    assert policy.length() > 0
    assert lost(policy, (0,), 200) < 0.02


def test_rests_become_longer_as_long_as_drafts_are_wrong() -> None:
    times = RowTimes(((1, 0.1), (33, 0.132)))
    lengths = run(Policy(PassTimes(100_000, times), 15), (0,), 1000, learn=False)
    rests = [after - at for at, after in pairwise(n for n, length in enumerate(lengths) if length)]
    assert rests == sorted(rests)
    assert rests[0] == 1
    assert rests[-1] > 100


def test_a_trial_waits_for_something_to_be_found() -> None:
    policy = Policy(PassTimes(20_000, RowTimes(((1, 0.020), (2, 0.022), (32, 0.082)))), 15)
    run(policy, (0,), 300, learn=False)
    lengths = []
    for _ in range(200):
        lengths.append(policy.length())
        policy.note(0, 0)
    first = lengths.index(3)
    assert set(lengths[first:]) == {3}
    found = run(policy, (15,), 20, learn=False)
    assert found[-1] > 8


def test_each_of_several_sequences_has_its_part_of_a_pass() -> None:
    times = RowTimes(((1, 0.1), (64, 0.73)))
    policy, right = Policy(PassTimes(100_000, times), 15), 0
    policy.sequences = 4
    alone, seconds = policy.times.of(4), 0.0
    for _ in range(200):
        length = policy.length()
        for _ in range(4):
            policy.note(length, 0)
        seconds += policy.times.of(4 * (1 + length))
        right += 1
    assert FIRST / 2 < seconds / alone - right <= SHARE * right + FIRST


def test_rows_under_the_reading_time_are_free() -> None:
    policy = Policy(PassTimes(*STREAMED), 31)
    assert 8 <= policy.length() <= 16
    for _ in range(20):
        policy.note(15, 0)
    assert policy.length() == 1, "worthless drafts cost little, and one row is free"


def test_copying_drafts_much_and_inventing_nothing() -> None:
    assert min(run(Policy(PassTimes(*STREAMED), 15), COPYING, 60, learn=False)[5:]) >= 8
    invented = run(Policy(PassTimes(*IN_MEMORY), 15), INVENTING, 400)
    assert invented.count(0) > 380
    assert any(invented[-130:]), "it is tried again"


def test_a_rest_ends_when_drafts_are_right_again() -> None:
    policy = Policy(PassTimes(20_000, RowTimes(((1, 0.020), (2, 0.022), (32, 0.082)))), 15)
    lost = run(policy, (0,), 60, learn=False)
    assert lost[-1] == 0 or 0 in lost[-5:]
    found = run(policy, (15,), 140, learn=False)
    assert found[-1] > 8


def test_drafting_that_takes_long_drafts_less() -> None:
    free, slow = (Policy(PassTimes(*STREAMED), 15, token_us=us) for us in (0, 30_000))
    assert slow.length() < free.length()
    assert Policy(PassTimes(*STREAMED), 15, token_us=10**6).length() == 0


def test_never_more_than_may_be() -> None:
    assert Policy(PassTimes(*STREAMED), 3).length() == 3
    assert Policy(PassTimes(*STREAMED), 0).length() == 0


def test_passes_teach_what_passes_take() -> None:
    times = PassTimes(*STREAMED)
    assert [times.of(rows) for rows in (1, 16, 31)] == [100_000, 100_000, 190_000]
    times.note(1, 200_000)
    assert times.of(1) == 200_000
    assert times.of(31) == 380_000, "others by as much"
    times.note(31, 190_000)
    assert times.of(31) == 190_000
    assert 100_000 < times.of(16) < 200_000, "and between two by both"
    times.note(31, 290_000)
    assert 190_000 < times.of(31) < 290_000


@pytest.mark.parametrize(
    ("acceptance", "drafted", "tokens"), [(0.0, 5, 1.0), (1.0, 5, 6.0), (0.5, 2, 1.75), (0.9, 0, 1)]
)
def test_tokens_of_a_pass(acceptance: float, drafted: int, tokens: float) -> None:
    assert expected_tokens(acceptance, drafted) == pytest.approx(tokens)
