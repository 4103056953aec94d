"""Whether to read experts before their layer asks for them, and how many.

Policy only. Guesses are read when the drive has nothing else to do. When the layer asks, a right
one has saved what was read of it. A wrong one costs what is just being read, as that delays the
reads that are wanted, what reading took from computing, and the expert whose slot it took. Each
layer's guess costs the time of computing it. Guessing rests while all this, measured as it runs,
does not pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A gain or loss counts this much in the running means.
_SHARE = 1 / 64
# What a second of reading takes from computing beside it: 2 cores computed the experts of a mixture
# in 80 ms a token while 127 ms of reads ran, and in 47 ms when none did.
_TAKEN_BESIDE = 0.25
# While guessing rests, one layer in so many is guessed to see whether it would pay.
_TRIAL = 32


@dataclass(frozen=True)
class Guess:
    """One expert read ahead, the `rank`-th likeliest of those that were not in memory.

    Attributes:
        right: its layer wanted it.
        read_s: seconds that the drive takes for it.
        arrived: the share of it that was in memory when the layer asked.
        flying: the share that was being read.
        displaced: the chance that the expert whose slot it took was wanted instead.
    """

    rank: int
    right: bool
    read_s: float
    arrived: float
    flying: float
    displaced: float = 0.0

    @property
    def gain_s(self) -> float:
        if self.right:
            return self.read_s * (self.arrived + self.flying / 2 - self.displaced)
        taken = _TAKEN_BESIDE * (self.arrived + self.flying)
        return -self.read_s * (taken + self.flying / 2 + self.displaced)


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
