"""The drafts of the server's answers: how long each may be, and what came of all of them."""

from __future__ import annotations

from collections.abc import Callable

from flexinfer.engine.pass_stats import PassStats
from flexinfer.speculate.drafts import DraftStats
from flexinfer.speculate.policy import Policy

# Of a time that a drafted token was known to take, so much stays when another is seen.
_INERTIA = 0.7
# Where llama.cpp's own flags say how much is drafted.
_ANY = 1 << 16


class ServedDrafts:
    """Asked before each pass over answers, and told what each draft came to.

    Args:
        policy: how many tokens; None: as llama-server was told.
        passes: what all passes of the model came to so far.
        nbytes: that a model holds which drafts.
    """

    def __init__(
        self,
        policy: Policy | None,
        passes: Callable[[], PassStats],
        nbytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.stats = DraftStats()
        self._policy = policy
        self._passes = passes
        self._nbytes = nbytes
        self._before = PassStats()
        self._slots = 0

    def __repr__(self) -> str:
        return f"<ServedDrafts {self.stats.accepted} of {self.stats.drafted} accepted>"

    @property
    def document(self) -> dict[str, float]:
        """Their counts, and the memory of what drafts, as JSON has it."""
        return {**self.stats.document, "bytes": self._nbytes()}

    def length(self, slots: int, drafted: int, microseconds: int) -> int:
        """How many tokens each of `slots` may draft for the next pass.

        Args:
            drafted, microseconds: tokens that the last draft had, of all slots, and what it took;
                0 where that is no measure.
        """
        before, self._before = self._before, self._passes()
        if self._policy is not None:
            self._learn(self._policy, self._before - before, drafted, microseconds)
        self._slots = slots
        self.stats += DraftStats(passes=1, tokens=slots)
        if self._policy is None:
            return _ANY
        self._policy.sequences = slots
        return self._policy.length()

    def verified(self, drafted: int, accepted: int) -> None:
        """Of the `drafted` tokens of a slot, the first `accepted` were right."""
        if self._policy is not None:
            self._policy.note(drafted, accepted)
        self.stats += DraftStats(drafted=drafted, accepted=accepted, tokens=accepted)

    def _learn(self, policy: Policy, since: PassStats, drafted: int, microseconds: int) -> None:
        """Take in a pass over answers alone, and what drafting for it took."""
        rows = self._slots + drafted
        if since.passes == 1 and since.tokens == rows:
            seconds = since.compute_s + since.wait_s + since.away_s
            policy.times.note(rows, round(1e6 * seconds))
        if drafted and microseconds and policy.token_us:
            each = microseconds * self._slots / drafted
            policy.token_us = round(_INERTIA * policy.token_us + (1 - _INERTIA) * each)
