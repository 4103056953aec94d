"""How many tokens to draft: as many as bring most a second, by what passes take and drafts gave."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexinfer.planning.drafted import NEARLY, expected_tokens
from flexinfer.planning.many import RowTimes

# What a draft is believed to be worth before any was tried: right and tried tokens.
_BELIEF = (3.0, 4.0)
# Of what was seen, so much counts after one more pass.
_KEPT = 0.85
# Of the time of passes this share may be lost to drafts that are wrong.
SHARE = 0.01
# In times of a pass: what may be lost at first, and at most, after drafts that were right.
FIRST, MOST = 2.0, 4.0
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

    Nothing is drafted that could lose more than is left of what may be lost. So however wrong all
    drafts are, they cost `SHARE` of the time of the passes, and `FIRST` passes once; after drafts
    that were right, up to `MOST` passes. That is by the times of passes as they are known, and
    without what a model that drafts takes to read what was written while it rested.

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
        # What may be lost, in times of a pass.
        self._left = FIRST
        self._pause = _PAUSE
        self._resting = 0

    def __repr__(self) -> str:
        return f"<Policy {self.acceptance:.0%} accepted, {self._left:.2f} passes to lose>"

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that is right, of those that a wrong one did not end."""
        return self._right / self._tried

    def length(self) -> int:
        """How many tokens to draft for the next pass."""
        self._left = min(self._left + SHARE, MOST)
        if self._resting:
            self._resting -= 1
            return 0
        best = self._best()
        if best:
            return self._longest(best, self._left)
        trial = self._longest(_TRIAL, FIRST)
        return trial if self._cost(trial) <= self._left else 0

    def note(self, drafted: int, accepted: int) -> None:
        """Take in that of `drafted` tokens the first `accepted` were right."""
        if not drafted:
            return
        self._right = _KEPT * self._right + accepted
        self._tried = _KEPT * self._tried + accepted + (accepted < drafted)
        self._left += (accepted - self._cost(drafted)) / self.sequences
        if self._best():
            self._pause = _PAUSE
        elif not self._resting:
            self._resting = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _best(self) -> int:
        """The length that is expected to bring most a second; of nearly equals the least."""
        rates = [self._tokens_a_time(drafted) for drafted in range(self._most + 1)]
        return next(n for n, rate in enumerate(rates) if rate >= NEARLY * max(rates))

    def _longest(self, drafted: int, cost: float) -> int:
        """The longest draft of at most `drafted` tokens that costs no more."""
        lengths = range(min(drafted, self._most), 0, -1)
        return next((n for n in lengths if self._cost(n) <= cost), 0)

    def _cost(self, drafted: int) -> float:
        """What drafts of that length add to a pass, in times of a pass; wrong ones lose it."""
        longer = self.times.of(self.sequences * (1 + drafted)) + drafted * self.token_us
        return max(longer / self.times.of(self.sequences) - 1.0, 0.0)

    def _tokens_a_time(self, drafted: int) -> float:
        return expected_tokens(self.acceptance, drafted) / (
            self.times.of(self.sequences * (1 + drafted)) + drafted * self.token_us
        )
