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

# Gives back about as many bytes as it is told are missing, if it can; returns how many it gave. It
# asks once it is able to give: while it waited, somebody else may have given them.
Reclaimer = Callable[[Callable[[], int]], int]


class Ledger:
    """Accounts in bytes that together stay within `limit` (None: counted, never refused).

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._wishes: dict[object, int] = {}
        self._accounts: dict[str, int] = {}
        self._reclaimers: list[Reclaimer] = []
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else format_size(self._limit)
        held = "".join(f", {name} {format_size(n)}" for name, n in self.accounts.items())
        return f"<Ledger {format_size(self.used)} of {limit}{held}>"

    @property
    def limit(self) -> int | None:
        """Bytes; lowering it asks the reclaimers, which may give too little: see `free`."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        with self._lock:
            self._limit = limit
        self._reclaim(0)

    def limit_to(self, user: object, limit: int, *, asked: bool = False) -> None:
        """Begin a use that wants this limit: the first sets it, later ones share it.

        One that was `asked` for by name raises it where it is larger: it is that of the process.
        """
        with self._lock:
            if self._limit is not None and not asked:
                limit = min(limit, self._limit)
            self._wishes[user] = limit
            self._limit = max(limit, self._limit or 0)

    def unlimit(self, user: object) -> None:
        """End a use: the limit is that of the others again; without any there is none."""
        with self._lock:
            wish = self._wishes.pop(user, None)
            if wish is None or self._limit is None:
                return
            if not self._wishes:
                self._limit = None
            elif wish >= self._limit:
                self._limit = min(self._limit, max(self._wishes.values()))

    @property
    def accounts(self) -> Mapping[str, int]:
        """The accounts as they are now."""
        with self._lock:
            return MappingProxyType(dict(self._accounts))

    @property
    def used(self) -> int:
        with self._lock:
            return sum(self._accounts.values())

    @property
    def free(self) -> int | None:
        """Bytes left; negative after the limit was lowered; None without a limit."""
        with self._lock:
            return None if self._limit is None else self._limit - self.used

    def charge(self, account: str, nbytes: int, *, beside: Reclaimer | None = None) -> None:
        """Take `nbytes` for `account`, asking the reclaimers when they do not fit.

        The one `beside` whom it is charged is not asked: it would give what it is to get.

        Raises:
            BudgetError: they do not fit and nobody can give back enough.
        """
        if nbytes < 0:
            raise ValueError(f"{account} cannot be charged {nbytes} bytes; release them")
        while not self._try(account, nbytes):
            if not self._reclaim(nbytes, beside):
                raise BudgetError(
                    f"{account} needs {format_size(nbytes)} more, but {self._arithmetic()}; "
                    "give a larger memory budget"
                )

    def release(self, account: str, nbytes: int) -> None:
        """Give `nbytes` of `account` back."""
        with self._lock:
            left = self._accounts.get(account, 0) - nbytes
            if nbytes < 0 or left < 0:
                raise ValueError(
                    f"{account} holds {left + nbytes} bytes and cannot give back {nbytes}"
                )
            self._set(account, left)

    def set(self, account: str, nbytes: int) -> None:
        """Record what `account` was found to hold, whether it fits or not."""
        with self._lock:
            self._set(account, nbytes)

    def add_reclaimer(self, reclaim: Reclaimer) -> None:
        """Ask `reclaim` for bytes when a charge does not fit; the one added last is asked last."""
        with self._lock:
            self._reclaimers.append(reclaim)

    def remove_reclaimer(self, reclaim: Reclaimer) -> None:
        with self._lock:
            self._reclaimers = [known for known in self._reclaimers if known != reclaim]

    def _reclaim(self, nbytes: int, beside: Reclaimer | None = None) -> bool:
        """Ask for what `nbytes` more lack, until they fit; whether they do now."""
        with self._lock:
            reclaimers = [known for known in self._reclaimers if known != beside]
        for reclaim in reclaimers:
            if not self._missing(nbytes):
                break
            reclaim(lambda: self._missing(nbytes))
        return not self._missing(nbytes)

    def _missing(self, nbytes: int) -> int:
        free = self.free
        return 0 if free is None else max(nbytes - free, 0)

    def _try(self, account: str, nbytes: int) -> bool:
        with self._lock:
            if self._missing(nbytes):
                return False
            self._set(account, self._accounts.get(account, 0) + nbytes)
            return True

    def _set(self, account: str, nbytes: int) -> None:
        if nbytes:
            self._accounts[account] = nbytes
        else:
            self._accounts.pop(account, None)

    def _arithmetic(self) -> str:
        held = ", ".join(f"{name} {format_size(n)}" for name, n in self.accounts.items())
        return f"{held or 'nothing'} of {format_size(self._limit or 0)} are in use"
