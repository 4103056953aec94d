"""What budget a wish comes to, whichever way it comes in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.machines import FINE, GIB

from flexinfer.errors import SizeError
from flexinfer.machine.budget import granted_budget, wished_budget

GROUPED = replace(FINE, cgroup_limit=2 * GIB, cgroup_used=GIB + (100 << 20), process=100 << 20)


def test_a_wish_that_exists_is_granted() -> None:
    assert granted_budget("1GiB", FINE) == GIB
    assert granted_budget(5 * GIB, FINE) == 5 * GIB
    assert granted_budget(None, FINE) == FINE.default_budget


def test_what_does_not_exist_is_not_granted() -> None:
    assert granted_budget("100GiB", FINE) == FINE.ceiling == 24 * GIB
    assert granted_budget("2GiB", GROUPED) == GROUPED.ceiling == GIB
    assert granted_budget("2GiB", replace(FINE, ulimit=GIB, process=0)) == GIB


def test_a_group_of_just_the_size_is_no_less() -> None:
    """It counts some kernel memory of the process itself as somebody else's."""
    group = replace(FINE, cgroup_limit=GIB, cgroup_used=10 << 20, process=0)
    assert granted_budget("1GiB", group) == GIB
    assert granted_budget("1GiB", replace(group, cgroup_used=30 << 20)) == GIB - (30 << 20)


@pytest.mark.parametrize(
    ("share", "machine", "nbytes"),
    [
        ("50%", FINE, 16 * GIB),
        ("12.5 %", FINE, 4 * GIB),
        ("100%", FINE, 32 * GIB),
        ("25%", GROUPED, GIB // 2),
    ],
)
def test_a_share_is_of_what_there_is(share: str, machine: object, nbytes: int) -> None:
    assert wished_budget(share, machine) == nbytes  # type: ignore[arg-type]


def test_a_share_is_held_below_what_is_free() -> None:
    assert granted_budget("100%", FINE) == FINE.ceiling


@pytest.mark.parametrize("wish", ["0%", "101%", "-5%", "%", "half", "50%%", "auto", "", 0, -1])
def test_what_is_no_budget_is_refused(wish: str | int) -> None:
    with pytest.raises(SizeError):
        wished_budget(wish, FINE)
