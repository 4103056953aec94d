"""The ledger: one account book of memory for the process; every consumer asks it first.

Policy only: it counts integers. Whoever can give memory back registers a reclaimer, which is asked,
outside the lock, before a charge that does not fit is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

from flexinfer.errors import BudgetError
from flexinfer.sizes import format_size

# Gives back about so many bytes, if it can; returns how many it gave.
Reclaimer = Callable[[int], int]


class Ledger:
    """Accounts in bytes that together stay within `limit` (None: counted, never refused)."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._accounts: dict[str, int] = {}
        self._reclaimers: list[Reclaimer] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else format_size(self._limit)
        return f"<Ledger {format_size(self.used)} of {limit}, {dict(self._accounts)}>"

    @property
    def limit(self) -> int | None:
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        with self._lock:
            self._limit = limit

    @property
    def accounts(self) -> Mapping[str, int]:
        return MappingProxyType(self._accounts)

    @property
    def used(self) -> int:
        return sum(self._accounts.values())

    @property
    def free(self) -> int | None:
        """Bytes left; negative after the limit was lowered; None without a limit."""
        return None if self._limit is None else self._limit - self.used

    def charge(self, account: str, nbytes: int) -> None:
        """Take `nbytes` for `account`, asking the reclaimers when they do not fit.

        Raises:
            BudgetError: they do not fit and nobody can give back enough.
        """
        if self._try(account, nbytes):
            return
        for reclaim in list(self._reclaimers):
            missing = nbytes - (self.free or 0)
            if missing > 0:
                reclaim(missing)
            if self._try(account, nbytes):
                return
        raise BudgetError(
            f"{account} needs {format_size(nbytes)} more, but {self._arithmetic()}; "
            "give a larger memory budget"
        )

    def release(self, account: str, nbytes: int) -> None:
        """Give `nbytes` of `account` back."""
        with self._lock:
            left = self._accounts.get(account, 0) - nbytes
            if left < 0:
                raise ValueError(f"{account} gives back more than it holds, by {-left} bytes")
            self._set(account, left)

    def set(self, account: str, nbytes: int) -> None:
        """Record what `account` was found to hold, whether it fits or not."""
        with self._lock:
            self._set(account, nbytes)

    def add_reclaimer(self, reclaim: Reclaimer) -> None:
        with self._lock:
            self._reclaimers.append(reclaim)

    def remove_reclaimer(self, reclaim: Reclaimer) -> None:
        with self._lock:
            self._reclaimers = [r for r in self._reclaimers if r != reclaim]

    def _try(self, account: str, nbytes: int) -> bool:
        with self._lock:
            if self._limit is not None and self.used + nbytes > self._limit:
                return False
            self._set(account, self._accounts.get(account, 0) + nbytes)
            return True

    def _set(self, account: str, nbytes: int) -> None:
        if nbytes:
            self._accounts[account] = nbytes
        else:
            self._accounts.pop(account, None)

    def _arithmetic(self) -> str:
        held = ", ".join(f"{name} {format_size(n)}" for name, n in self._accounts.items())
        return f"{held or 'nothing'} of {format_size(self._limit or 0)} are in use"
