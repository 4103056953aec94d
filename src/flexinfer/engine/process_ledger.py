"""Whose memory is counted where: one ledger for the process, and what the device tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flexinfer.errors import BudgetError
from flexinfer.memory.ledger import Ledger
from flexinfer.native.device.device import device
from flexinfer.sizes import format_size


class ContextMemory:
    """The ledger as the device sees it: KV caches, compute buffers and adapters of all models."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def allocating(self, nbytes: int) -> None:
        self.ledger.charge("contexts", nbytes)

    def freed(self, nbytes: int) -> None:
        self.ledger.release("contexts", nbytes)


def process_ledger() -> Ledger:
    """The ledger of this process, where the limit is that of the models open now."""
    known = device().allocations
    if isinstance(known, ContextMemory) and known.ledger.used:
        return known.ledger
    ledger = Ledger()
    device().allocations = ContextMemory(ledger)
    return ledger


@contextmanager
def beside_others(ledger: Ledger) -> Iterator[None]:
    """Has a refusal name what the models that are open already hold of the process's budget."""
    held, limit = ledger.used, ledger.limit
    try:
        yield
    except BudgetError as error:
        if not held or limit is None:
            raise
        raise BudgetError(
            f"{error}; other models of this process hold {format_size(held)} of its budget of "
            f"{format_size(limit)}: close one, or give a memory= that is enough for all of them"
        ) from error
