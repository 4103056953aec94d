"""Drafts by a smaller model: what it would write itself, one token after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

# Of the time that a token was known to take, so much stays when another is seen.
_INERTIA = 0.7


class Writer(Protocol):
    """A model that writes what it finds likeliest."""

    @property
    def room(self) -> int:
        """Tokens that its context holds."""

    @property
    def known(self) -> Sequence[int]:
        """The tokens that it has computed."""

    def forget_from(self, count: int) -> None:
        """Know only the first `count` tokens any more."""

    def compute(self, tokens: Sequence[int]) -> int:
        """Compute tokens after the known ones; returns the likeliest one to follow."""


class ByModel:
    """Proposes what `writer` would write.

    Args:
        token_us: microseconds that it is expected to take for a token.
        clock: seconds.
    """

    def __init__(
        self, writer: Writer, token_us: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.token_us = token_us
        self._writer = writer
        self._clock = clock

    def __repr__(self) -> str:
        return f"<ByModel, {self.token_us} us a token>"

    def draft(self, known: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow the known ones, as many as its context holds."""
        most = min(most, self._writer.room - len(known))
        if most <= 0:
            return []
        began = self._clock()
        missing = self._catch_up(known)
        found = [self._writer.compute(missing)]
        while len(found) < most:
            found.append(self._writer.compute(found[-1:]))
        # Reading what was written without it is no measure of a token.
        if len(missing) <= len(found) + 1:
            self._note(round(1e6 * (self._clock() - began) / len(found)))
        return found

    def _catch_up(self, known: Sequence[int]) -> list[int]:
        """Forget what turned out otherwise; returns what it has not computed, the last at least."""
        tokens = [int(token) for token in known]
        same = 0
        for one, other in zip(self._writer.known, tokens[:-1], strict=False):
            if one != other:
                break
            same += 1
        self._writer.forget_from(same)
        return tokens[same:]

    def _note(self, microseconds: int) -> None:
        self.token_us = round(_INERTIA * self.token_us + (1 - _INERTIA) * microseconds)
