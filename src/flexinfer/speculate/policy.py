"""How many tokens to draft: as many as bring most a second, by what passes take and drafts gave."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexinfer.planning.drafted import NEARLY, expected_tokens
from flexinfer.planning.many import RowTimes

# What a draft is believed to be worth before any was tried: right and tried tokens.
_BELIEF = (3.0, 4.0)
# Of what was seen, so much counts after one more pass.
_KEPT = 0.85
# Passes without a draft after one that did not pay: at first, and at most.
_PAUSE, _LONGEST_PAUSE = 4, 128
# Tokens that are drafted to try again.
_TRIAL = 3
# Of a time that was known, so much stays when another is seen.
_INERTIA = 0.7


@dataclass
class PassTimes:
    """Microseconds that passes take, by the number of their rows; learned from passes.

    Args:
        alone: of one row, as planned: reading or computing, whichever takes longer.
        computing: of so many rows, in seconds.
    """

    alone: int
    computing: RowTimes
    _seen: dict[int, float] = field(default_factory=dict)

    def note(self, rows: int, microseconds: int) -> None:
        """Take in a pass of so many rows."""
        known = self._seen.get(rows)
        new = float(microseconds)
        self._seen[rows] = new if known is None else _INERTIA * known + (1 - _INERTIA) * new

    def of(self, rows: int) -> float:
        """What a pass is expected to take: as planned, corrected by the passes most like it."""
        planned = self._planned(rows)
        below = max((n for n in self._seen if n <= rows), default=None)
        above = min((n for n in self._seen if n >= rows), default=None)
        ends = [n for n in (below, above) if n is not None]
        if not ends:
            return planned
        ratios = [self._seen[n] / self._planned(n) for n in ends]
        if len(ends) == 1 or ends[0] == ends[1]:
            return planned * ratios[0]
        share = (rows - ends[0]) / (ends[1] - ends[0])
        return planned * (ratios[0] + share * (ratios[1] - ratios[0]))

    def _planned(self, rows: int) -> float:
        return max(float(self.alone), 1e6 * self.computing.seconds(rows), 1.0)


class Policy:
    """Decides before each pass; rests where drafts lose, and tries again.

    Args:
        times: of passes.
        most: tokens that may be drafted at once.
        token_us: microseconds that drafting a token takes.

    Attributes:
        sequences: that are decoded together, each with a draft of its own.
    """

    def __init__(self, times: PassTimes, most: int, token_us: int = 0) -> None:
        self.times = times
        self.token_us = token_us
        self.sequences = 1
        self._most = most
        self._right, self._tried = _BELIEF
        self._pause = _PAUSE
        self._resting = 0

    def __repr__(self) -> str:
        return f"<Policy {self.acceptance:.0%} accepted, {self._resting} passes of rest>"

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that is right, of those that a wrong one did not end."""
        return self._right / self._tried

    def length(self) -> int:
        """How many tokens to draft for the next pass."""
        if self._resting:
            self._resting -= 1
            return 0 if self._resting else min(_TRIAL, self._most)
        rates = [self._tokens_a_time(drafted) for drafted in range(self._most + 1)]
        best = next(n for n, rate in enumerate(rates) if rate >= NEARLY * max(rates))
        if best:
            self._pause = _PAUSE
            return best
        self._resting = self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return 0

    def note(self, drafted: int, accepted: int) -> None:
        """Take in that of `drafted` tokens the first `accepted` were right."""
        if drafted:
            self._right = _KEPT * self._right + accepted
            self._tried = _KEPT * self._tried + accepted + (accepted < drafted)

    def _tokens_a_time(self, drafted: int) -> float:
        return expected_tokens(self.acceptance, drafted) / (
            self.times.of(self.sequences * (1 + drafted)) + drafted * self.token_us
        )
