"""Whether to read experts before their layer asks for them, and how many.

Policy only. A right guess saves the time for which its read ran ahead, at most the whole read; a
wrong one costs the drive what was left of it when the layer asked; each layer's guess costs the
time of computing it. All of it is measured while it runs, and guessing rests while it does not pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A gain or loss counts this much in the running means.
_SHARE = 1 / 64
# While guessing rests, one layer in so many is guessed to see whether it would pay.
_TRIAL = 32


@dataclass(frozen=True)
class Guess:
    """One expert read ahead, the `rank`-th likeliest of those that were not in memory.

    Attributes:
        ahead_s: seconds from the start of the read to its layer's routing.
        read_s: seconds that the read takes of the drive.
        right: its layer wanted it.
    """

    rank: int
    ahead_s: float
    read_s: float
    right: bool

    @property
    def gain_s(self) -> float:
        if self.right:
            return min(self.ahead_s, self.read_s)
        return -max(self.read_s - self.ahead_s, 0.0)


class Guessing:
    """Decides for one model; `most` guesses a layer at most."""

    def __init__(self, most: int) -> None:
        self._calls = 0
        # Seconds by rank, above zero until something else is known.
        self._gains = [1e-4] * most
        self._net = 1e-4

    def __repr__(self) -> str:
        gains = ", ".join(f"{1e6 * gain:.0f}" for gain in self._gains)
        return f"<Guessing gains {gains} us, net {1e6 * self._net:.0f} us>"

    @property
    def pays(self) -> bool:
        return self._net > 0

    def depth(self) -> int:
        """How many experts to guess for the next layer; 0: do not even compute which."""
        self._calls += 1
        trial = self._calls % _TRIAL == 0
        if not (self.pays or trial):
            return 0
        paying = next((r for r, gain in enumerate(self._gains) if gain <= 0), len(self._gains))
        return min(paying + trial, len(self._gains))

    def note(self, guesses: Sequence[Guess], cost_s: float) -> None:
        """What came of one layer's guesses, and the seconds it took to make them."""
        for guess in guesses:
            self._gains[guess.rank] += _SHARE * (guess.gain_s - self._gains[guess.rank])
        net = sum(guess.gain_s for guess in guesses) - cost_s
        self._net += _SHARE * (net - self._net)
