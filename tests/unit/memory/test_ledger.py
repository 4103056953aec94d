"""The ledger: nothing is granted that does not fit, and every byte is on one account."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.weights import few

from flexinfer.errors import BudgetError
from flexinfer.memory.ledger import Ledger


class Holder:
    """Holds bytes of a ledger and gives back at most what it has, less `kept`."""

    def __init__(self, ledger: Ledger, account: str, nbytes: int, kept: int = 0) -> None:
        self.asked: list[int] = []
        self._ledger = ledger
        self._account = account
        self._kept = kept
        ledger.charge(account, nbytes)
        ledger.add_reclaimer(self.reclaim)

    def reclaim(self, missing: Callable[[], int]) -> int:
        nbytes = missing()
        self.asked.append(nbytes)
        given = max(min(nbytes, self._ledger.accounts.get(self._account, 0) - self._kept), 0)
        self._ledger.release(self._account, given)
        return given


def test_a_charge_that_fits_is_booked() -> None:
    ledger = Ledger(100)
    ledger.charge("kv", 60)
    ledger.charge("kv", 10)
    ledger.charge("compute", 20)
    assert dict(ledger.accounts) == {"kv": 70, "compute": 20}
    assert (ledger.used, ledger.free) == (90, 10)
    assert repr(ledger) == "<Ledger 90 B of 100 B, kv 70 B, compute 20 B>"


def test_a_charge_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    ledger = Ledger(100)
    ledger.charge("kv", 60)
    with pytest.raises(BudgetError, match="compute needs 41 B more, but kv 60 B of 100 B are in"):
        ledger.charge("compute", 41)
    assert dict(ledger.accounts) == {"kv": 60}


def test_an_empty_account_is_gone() -> None:
    ledger = Ledger(100)
    ledger.charge("kv", 60)
    ledger.release("kv", 60)
    assert dict(ledger.accounts) == {}
    assert repr(ledger) == "<Ledger 0 B of 100 B>"


def test_nobody_gives_back_more_than_there_is() -> None:
    ledger = Ledger(100)
    ledger.charge("kv", 10)
    with pytest.raises(ValueError, match="kv holds 10 bytes and cannot give back 11"):
        ledger.release("kv", 11)
    with pytest.raises(ValueError, match="cannot give back -1"):
        ledger.release("kv", -1)
    with pytest.raises(ValueError, match="cannot be charged -1"):
        ledger.charge("kv", -1)
    assert dict(ledger.accounts) == {"kv": 10}


def test_without_a_limit_everything_is_counted() -> None:
    ledger = Ledger()
    ledger.charge("kv", 1 << 60)
    assert (ledger.used, ledger.free) == (1 << 60, None)
    assert repr(ledger).startswith("<Ledger 1073741824 GiB of no limit")


def test_reclaimers_are_asked_for_what_is_missing_in_turn() -> None:
    ledger = Ledger(100)
    first = Holder(ledger, "first", 50, kept=45)
    second = Holder(ledger, "second", 50)
    ledger.charge("compute", 20)
    assert first.asked == [20]
    assert second.asked == [15]
    assert dict(ledger.accounts) == {"first": 45, "second": 35, "compute": 20}


def test_nobody_is_asked_while_it_fits() -> None:
    ledger = Ledger(100)
    holder = Holder(ledger, "weights", 80)
    ledger.charge("compute", 20)
    assert holder.asked == []


def test_a_refused_charge_asked_everybody_and_booked_nothing() -> None:
    ledger = Ledger(100)
    holder = Holder(ledger, "weights", 80, kept=70)
    with pytest.raises(BudgetError):
        ledger.charge("compute", 40)
    assert holder.asked == [20]
    assert dict(ledger.accounts) == {"weights": 70}


def test_a_removed_reclaimer_is_not_asked() -> None:
    ledger = Ledger(100)
    holder = Holder(ledger, "weights", 80)
    ledger.remove_reclaimer(holder.reclaim)
    with pytest.raises(BudgetError):
        ledger.charge("compute", 40)
    assert holder.asked == []


def test_a_reclaimer_may_use_the_ledger_from_another_thread() -> None:
    """It is asked outside the lock: waiting for somebody who needs the ledger does not hang."""
    ledger = Ledger(100)
    ledger.charge("weights", 80)

    def reclaim(missing: Callable[[], int]) -> int:
        nbytes = missing()
        other = threading.Thread(target=ledger.release, args=("weights", nbytes))
        other.start()
        other.join(10)
        assert not other.is_alive()
        return nbytes

    ledger.add_reclaimer(reclaim)
    ledger.charge("compute", 40)
    assert dict(ledger.accounts) == {"weights": 60, "compute": 40}


def test_a_lower_limit_asks_for_bytes_back() -> None:
    ledger = Ledger(100)
    holder = Holder(ledger, "weights", 80, kept=30)
    ledger.limit = 60
    assert holder.asked == [20]
    assert ledger.free == 0
    ledger.limit = 20
    assert holder.asked == [20, 40]
    assert ledger.free == -10
    ledger.limit = 200
    assert ledger.free == 170


def test_what_somebody_else_gave_meanwhile_is_not_asked_for_again() -> None:
    ledger = Ledger(100)
    ledger.charge("other", 40)
    weights = Holder(ledger, "weights", 50)
    ledger.remove_reclaimer(weights.reclaim)

    def reclaim(missing: Callable[[], int]) -> int:
        ledger.release("other", 30)  # while this one waits for its pass
        return weights.reclaim(missing)

    ledger.add_reclaimer(reclaim)
    ledger.charge("compute", 40)
    assert weights.asked == [0]
    assert dict(ledger.accounts) == {"other": 10, "weights": 50, "compute": 40}


def test_what_was_found_is_recorded_even_where_it_does_not_fit() -> None:
    ledger = Ledger(100)
    ledger.set("overhead", 120)
    assert ledger.free == -20
    ledger.set("overhead", 0)
    assert dict(ledger.accounts) == {}


def test_threads_never_get_more_than_the_limit_together() -> None:
    ledger = Ledger(50)
    granted: list[str] = []

    def consume(name: str) -> None:
        for _ in range(30):
            try:
                ledger.charge(name, 1)
            except BudgetError:
                continue
            granted.append(name)

    threads = [threading.Thread(target=consume, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == ledger.used == 50


@few
@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-300, 500)), max_size=30),
    st.integers(0, 300),
)
def test_the_limit_holds_after_every_step(
    limit: int, steps: list[tuple[str, int]], held: int
) -> None:
    ledger = Ledger(limit)
    Holder(ledger, "weights", min(held, limit), kept=held // 3)
    for account, nbytes in steps:
        before = ledger.accounts.get(account, 0)
        try:
            if nbytes < 0:
                ledger.release(account, -nbytes)
            else:
                ledger.charge(account, nbytes)
        except (BudgetError, ValueError):
            assert ledger.accounts.get(account, 0) == before
        else:
            assert ledger.accounts.get(account, 0) == before + nbytes
        assert ledger.used <= limit
        assert all(booked > 0 for booked in ledger.accounts.values())


def test_a_later_use_raises_the_limit_only_where_it_was_asked_for() -> None:
    ledger = Ledger()
    ledger.limit_to("first", 100)
    ledger.limit_to("default", 300)
    assert ledger.limit == 100
    ledger.limit_to("less", 50, asked=True)
    assert ledger.limit == 100
    ledger.limit_to("more", 200, asked=True)
    assert ledger.limit == 200


def test_the_limit_is_that_of_who_is_left() -> None:
    ledger = Ledger()
    ledger.limit_to("first", 100)
    ledger.limit_to("default", 300)
    ledger.limit_to("more", 200, asked=True)
    ledger.unlimit("nobody")
    ledger.unlimit("more")
    assert ledger.limit == 100
    ledger.unlimit("first")
    assert ledger.limit == 100
    ledger.unlimit("default")
    assert ledger.limit is None


def test_a_limit_that_was_lowered_by_hand_stays_lowered() -> None:
    ledger = Ledger()
    ledger.limit_to("first", 100, asked=True)
    ledger.limit_to("more", 200, asked=True)
    ledger.limit = 50
    ledger.unlimit("more")
    assert ledger.limit == 50
