"""The drafts of one model's answers: proposed before a pass, held against what it chose after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from flexinfer.planning.sums import Sums
from flexinfer.speculate.policy import Policy


class Source(Protocol):
    """Who proposes tokens."""

    @property
    def token_us(self) -> int:
        """Microseconds that proposing one takes."""

    def draft(self, known: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow the known ones."""


@dataclass(frozen=True)
class DraftStats(Sums):
    """Counts since the model was opened.

    Attributes:
        drafted: tokens that were proposed and computed.
        accepted: those of them that the model chose itself.
        passes: over the model with a draft or without one, after a prompt.
        tokens: that those passes brought.
    """

    drafted: int = 0
    accepted: int = 0
    passes: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        return (
            f"{self.accepted} of {self.drafted} drafted tokens accepted, "
            f"{self.tokens_a_pass:.2f} tokens a pass"
        )

    @property
    def document(self) -> dict[str, float]:
        """As JSON has it, of a command and of a server."""
        return {**asdict(self), "tokens_per_pass": round(self.tokens_a_pass, 3)}

    @property
    def tokens_a_pass(self) -> float:
        return self.tokens / self.passes if self.passes else 0.0


class Drafts:
    """What the class calls its draft model: known tokens in, proposed tokens out.

    Args:
        source: who proposes.
        policy: how many.
        most: how many may follow so many known tokens.
    """

    def __init__(self, source: Source, policy: Policy, most: Callable[[int], int]) -> None:
        self.source = source
        self.policy = policy
        self.stats = DraftStats()
        self._most = most
        self._known: int | None = None
        self._pending: list[int] = []

    def __repr__(self) -> str:
        return f"<Drafts {self.stats.accepted} of {self.stats.drafted} accepted>"

    def __call__(self, known: Any, /, **_: Any) -> Any:
        """Propose tokens after the known ones, of which the last was chosen just now."""
        self._settle(len(known))
        self.policy.token_us = self.source.token_us
        most = min(self.policy.length(), self._most(len(known)))
        self._pending = self.source.draft(known, most)[:most] if most > 0 else []
        self._known = len(known)
        return np.array(self._pending, np.intc)

    def are(self, tokens: Sequence[int]) -> bool:
        """Whether these are the last chosen token and what was proposed to follow it."""
        return bool(self._pending) and list(tokens[1:]) == self._pending

    def note_pass(self, rows: int, microseconds: int) -> None:
        """Take in what a pass took."""
        self.policy.times.note(rows, microseconds)

    def finish(self, known: int) -> None:
        """An answer is over, after so many tokens with its prompt."""
        self._settle(known)
        self._known, self._pending = None, []

    def _settle(self, known: int) -> None:
        """Count what came of the last proposal: all tokens since but the last were drafted."""
        if self._known is None or known <= self._known:
            return
        came = known - self._known
        accepted = min(came - 1, len(self._pending))
        self.policy.note(len(self._pending), accepted)
        self.stats += DraftStats(len(self._pending), accepted, 1, came)
