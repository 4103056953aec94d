"""Which expert to give up: eviction policies, and shadow caches that tell which one does best.

Policy only: experts are ints, time is counted in tokens. A policy also remembers experts that are
not held, so that it can be swapped for another one at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

# A shadow's hits are forgotten at this rate a token; a rival must be better by the other factor.
_FORGET = 0.995
_BETTER = 1.02
_LARGEST = 1e200
# A prompt of this many tokens leaves nothing of the counts before it; more need not be counted.
_MOST_TICKS = 1024
# Shadow caches run for one layer in so many: what is learned there holds for all.
_SAMPLED = 8


class Policy(Protocol):
    """Orders the experts of one layer by how soon they will be wanted again."""

    def tick(self, tokens: int = 1) -> None:
        """Time passes."""

    def use(self, expert: int, times: int = 1) -> None:
        """`expert` was routed to, by `times` tokens since the last tick."""

    def victim(self, held: Iterable[int]) -> int:
        """The one of `held` that is wanted least."""


class Lru:
    """Gives up what was used longest ago."""

    def __init__(self) -> None:
        self._clock = 0
        self._used: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Lru {len(self._used)} experts>"

    def tick(self, tokens: int = 1) -> None:
        """Order alone counts."""

    def use(self, expert: int, times: int = 1) -> None:
        self._clock += 1
        self._used[expert] = self._clock

    def victim(self, held: Iterable[int]) -> int:
        used = self._used
        return min(held, key=lambda expert: used.get(expert, 0))


class Lfu:
    """Gives up what was used least often, where a use counts `decay` as much a token later."""

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        # Instead of shrinking all counts, a new use counts more.
        self._weight = 1.0
        self._counts: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<Lfu decay {self._decay}, {len(self._counts)} experts>"

    def tick(self, tokens: int = 1) -> None:
        for _ in range(min(tokens, _MOST_TICKS)):
            self._weight /= self._decay
            if self._weight > _LARGEST:
                self._counts = {e: count / _LARGEST for e, count in self._counts.items()}
                self._weight /= _LARGEST

    def use(self, expert: int, times: int = 1) -> None:
        self._counts[expert] = self._counts.get(expert, 0.0) + self._weight * times

    def victim(self, held: Iterable[int]) -> int:
        counts = self._counts
        return min(held, key=lambda expert: counts.get(expert, 0.0))


POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType({"lfu": Lfu, "lru": Lru})


class Shadow:
    """What a cache of `slots` experts under `policy` would hold; nothing is read for it."""

    def __init__(self, policy: Policy, slots: int) -> None:
        self.policy = policy
        self.slots = slots
        self.held: set[int] = set()

    def __repr__(self) -> str:
        return f"<Shadow {self.policy!r} {len(self.held)} of {self.slots}>"

    def access(self, experts: Iterable[int]) -> int:
        """One token's experts; returns how many of them were held."""
        wanted = set(experts)
        self.policy.tick()
        for expert in wanted:
            self.policy.use(expert)
        hits = len(wanted & self.held)
        for expert in wanted - self.held:
            if len(self.held) >= self.slots:
                others = self.held - wanted
                if not others:
                    continue
                self.held.discard(self.policy.victim(others))
            self.held.add(expert)
        return hits


class Chooser:
    """Runs a shadow of each policy beside the real cache and names the one that does best.

    Args:
        slots: of the real cache.
    """

    def __init__(self, slots: int) -> None:
        self._shadows = {name: Shadow(make(), slots) for name, make in POLICIES.items()}
        self.hits = dict.fromkeys(POLICIES, 0.0)
        self.best = next(iter(POLICIES))

    def __repr__(self) -> str:
        return f"<Chooser {self.best} of {self.hits}>"

    def access(self, experts: Iterable[int]) -> None:
        """One token's experts."""
        wanted = set(experts)
        for name, shadow in self._shadows.items():
            self.hits[name] = self.hits[name] * _FORGET + shadow.access(wanted)
        rival = max(self.hits, key=lambda name: self.hits[name])
        if self.hits[rival] > self.hits[self.best] * _BETTER:
            self.best = rival


class Choosers:
    """Choosers for some of the groups of a model, which vote.

    Args:
        slots: of each group.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        self._choosers = {
            group: Chooser(count)
            for group, count in enumerate(slots)
            if group % _SAMPLED == 0 and count
        }

    def __repr__(self) -> str:
        return f"<Choosers {self.best} of {len(self._choosers)}>"

    @property
    def best(self) -> str:
        """Name of the policy that does best at the moment."""
        votes = [chooser.best for chooser in self._choosers.values()]
        return max(votes, key=votes.count) if votes else next(iter(POLICIES))

    def access(self, group: int, experts: Iterable[int]) -> None:
        """One token's experts of a group."""
        chooser = self._choosers.get(group)
        if chooser is not None:
            chooser.access(experts)
