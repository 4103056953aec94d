"""The experts of one layer that are in memory: slots, who is in them, who goes.

Policy only: it counts integers. One slot holds all matrices of one expert.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from flexinfer.storage.experts.eviction import POLICIES, Policy


class SlotTable:
    """Slots 0 to `slots` - 1 of one layer."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.policies: dict[str, Policy] = {name: make() for name, make in POLICIES.items()}
        self._held: dict[int, int] = {}
        self._free = list(range(slots - 1, -1, -1))

    def __repr__(self) -> str:
        return f"<SlotTable {len(self._held)} of {self.slots} slots>"

    @property
    def held(self) -> Mapping[int, int]:
        """Slot of each expert in memory."""
        return self._held

    @property
    def free(self) -> int:
        return len(self._free)

    def note(self, uses: Mapping[int, int], tokens: int) -> None:
        """Routing of one batch: how many of its `tokens` use each expert."""
        for policy in self.policies.values():
            policy.tick(tokens)
            for expert, times in uses.items():
                policy.use(expert, times)

    def admit(self, expert: int, kept: Container[int], policy: str) -> int:
        """A slot for `expert`, if need be that of another one which is not to be `kept`.

        Raises:
            ValueError: all slots hold experts that are to be kept.
        """
        if not self._free:
            others = [e for e in self._held if e not in kept]
            self.evict(self.policies[policy].victim(others))
        slot = self._free.pop()
        self._held[expert] = slot
        return slot

    def resize(self, slots: int) -> list[int]:
        """Go over to another number of slots; returns the experts of slots that are no more."""
        gone = [expert for expert, slot in self._held.items() if slot >= slots]
        for expert in gone:
            del self._held[expert]
        taken = set(self._held.values())
        self._free = [slot for slot in range(slots - 1, -1, -1) if slot not in taken]
        self.slots = slots
        return gone

    def evict(self, expert: int) -> None:
        self._free.append(self._held.pop(expert))
