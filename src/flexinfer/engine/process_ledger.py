"""Whose memory is counted where: one ledger for the process, and what the device tells it."""

from __future__ import annotations

from flexinfer.memory.ledger import Ledger
from flexinfer.native.device.device import device


class ContextMemory:
    """The ledger as the device sees it: KV caches, compute buffers and adapters of all models."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def allocating(self, nbytes: int) -> None:
        self.ledger.charge("contexts", nbytes)

    def freed(self, nbytes: int) -> None:
        self.ledger.release("contexts", nbytes)


def process_ledger(limit: int | None) -> Ledger:
    """The ledger of this process, where the limit is that of the models open now."""
    known = device().allocations
    if isinstance(known, ContextMemory) and known.ledger.used:
        ledger = known.ledger
    else:
        ledger = Ledger()
        device().allocations = ContextMemory(ledger)
    ledger.limit_to(limit)
    return ledger
