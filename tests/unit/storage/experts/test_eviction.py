"""Eviction policies, slots and shadow caches: integers only."""

from __future__ import annotations

import random

import pytest

from flexinfer.storage.experts.eviction import POLICIES, Chooser, Lfu, Lru, Policy, Shadow
from flexinfer.storage.experts.slots import SlotTable


def feed(policy: Policy, experts: list[int]) -> None:
    for expert in experts:
        policy.tick()
        policy.use(expert)


def test_lru_gives_up_what_was_used_longest_ago() -> None:
    policy = Lru()
    feed(policy, [1, 2, 3, 1])
    assert policy.victim([1, 2, 3]) == 2
    assert policy.victim([1, 3]) == 3


def test_lfu_gives_up_what_was_used_least_often() -> None:
    policy = Lfu()
    feed(policy, [1, 1, 1, 2, 2, 3])
    assert policy.victim([1, 2, 3]) == 3
    assert policy.victim([1, 2]) == 2


def test_lfu_forgets() -> None:
    policy = Lfu(decay=0.5)
    feed(policy, [1, 1, 1, 2, 2])
    assert policy.victim([1, 2]) == 1


def test_lfu_counts_stay_finite() -> None:
    policy = Lfu(decay=0.5)
    feed(policy, [1] * 2000 + [2])
    policy.tick(5000)
    policy.use(3)
    assert policy.victim([1, 2, 3]) == 1


@pytest.mark.parametrize("name", POLICIES)
def test_unknown_experts_go_first(name: str) -> None:
    policy = POLICIES[name]()
    feed(policy, [1, 2])
    assert policy.victim([1, 2, 9]) == 9


def test_slots_are_filled_then_exchanged() -> None:
    table = SlotTable(2)
    assert [table.admit(e, {}, "lru") for e in (5, 6)] == [0, 1]
    table.note({6: 1}, 1)
    table.note({5: 1}, 1)
    assert table.admit(7, {7: 1, 5: 1}, "lru") == 1
    assert dict(table.held) == {5: 0, 7: 1}
    assert repr(table) == "<SlotTable 2 of 2 slots>"
    table.evict(5)
    assert table.free == 1


def test_wanted_experts_are_never_evicted() -> None:
    table = SlotTable(2)
    table.admit(1, {}, "lfu")
    table.admit(2, {}, "lfu")
    with pytest.raises(ValueError, match="empty"):
        table.admit(3, {1: 1, 2: 1, 3: 1}, "lfu")


def test_a_shadow_counts_hits() -> None:
    shadow = Shadow(Lru(), 2)
    assert [shadow.access(token) for token in ([1, 2], [2, 3], [1, 2], [1, 2])] == [0, 1, 1, 2]
    assert shadow.held == {1, 2}


def test_a_shadow_smaller_than_one_token_does_not_fail() -> None:
    shadow = Shadow(Lfu(), 2)
    assert shadow.access([1, 2, 3]) == 0
    assert shadow.access([1, 2, 3]) == 2


def scan_with_favourites(tokens: int) -> list[list[int]]:
    """Favourites in every third token between experts that never come back: LFU's case."""
    return [[0, 1] if at % 4 == 0 else [2 + 2 * at, 3 + 2 * at] for at in range(tokens)]


def recent(tokens: int) -> list[list[int]]:
    """Experts change for good after a long favourite time: LRU's case."""
    rng = random.Random(0)
    return [[(at // 12 + rng.randrange(4)) % 64, 64 + (at // 12) % 8] for at in range(tokens)]


@pytest.mark.parametrize(("trace", "best"), [(scan_with_favourites, "lfu"), (recent, "lru")])
def test_the_chooser_finds_the_better_policy(trace: object, best: str) -> None:
    assert callable(trace)
    chooser = Chooser(6)
    for token in trace(3000):
        chooser.access(token)
    other = next(name for name in POLICIES if name != best)
    assert chooser.hits[best] > chooser.hits[other]
    assert chooser.best == best
