"""Mixed requests with changing budgets against one model: counts, deviations, and what grows.

``python -m flexinfer.bench.soak MODEL BUDGET SECONDS SEED`` prints one JSON document.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flexinfer import Llama
from flexinfer.errors import BudgetError
from flexinfer.memory.heap import heap_in_use

_TOKENS = 12


@dataclass
class State:
    """What a leak would show in."""

    anonymous: int
    malloc: int
    python_blocks: int
    threads: int
    descriptors: int


@dataclass
class Soak:
    """Counts of one run."""

    requests: int = 0
    tokens: int = 0
    abandoned: int = 0
    deviations: int = 0
    changes: int = 0
    refused: int = 0
    releases: int = 0
    states: list[State] = field(default_factory=list)


class Requests:
    """Asks one model random things until the time is over."""

    def __init__(self, llm: Llama, budget: int, seed: int) -> None:
        self._llm = llm
        self._budget = budget
        self._chance = random.Random(seed)
        self._known: dict[tuple[int, float], list[int]] = {}
        self.soak = Soak()

    def run(self, seconds: float) -> Soak:
        began = time.monotonic()
        sampled = 0
        while (passed := time.monotonic() - began) < seconds:
            self._step()
            if passed > seconds * (sampled + 1) / 10:
                sampled += 1
                # Without weights, whose bytes follow the budget of the moment.
                self._llm.release()
                self.soak.states.append(_state())
        return self.soak

    def _step(self) -> None:
        what = self._chance.random()
        if what < 0.25:
            self._change()
        elif what < 0.3:
            self._llm.release()
            self.soak.releases += 1
        else:
            self._request()

    def _change(self) -> None:
        """Most budgets between a third of the limit and the limit hold the model's window."""
        wanted = int(self._budget * self._chance.uniform(0.35, 1.0))
        try:
            self._llm.memory = wanted
            self.soak.changes += 1
        except BudgetError:
            self.soak.refused += 1

    def _request(self) -> None:
        number = self._chance.randrange(6)
        temperature = self._chance.choice((0.0, 0.8))
        stop = self._chance.choice((_TOKENS, _TOKENS, _TOKENS, 3))
        answer = []
        for token in self._answer(number, temperature):
            answer.append(token)
            if len(answer) == stop:
                break
            if self._chance.random() < 0.05:
                self._change()
        known = self._known.get((number, temperature), [])
        shared = min(len(known), len(answer))
        self.soak.deviations += answer[:shared] != known[:shared]
        self._known[number, temperature] = max(known, answer, key=len)
        self.soak.requests += 1
        self.soak.tokens += len(answer)
        self.soak.abandoned += stop < _TOKENS

    def _answer(self, number: int, temperature: float) -> Iterator[int]:
        self._llm.reset()
        self._llm.set_seed(number)
        prompt = [(number * 31 + 7 * i) % 200 + 3 for i in range(1 + 11 * number)]
        yield from self._llm.generate(prompt, temp=temperature, top_k=40)


def _state() -> State:
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return State(
        int(fields["RssAnon"].split()[0]) << 10,
        heap_in_use(),
        sys.getallocatedblocks(),
        int(fields["Threads"]),
        len(os.listdir("/proc/self/fd")),
    )


if __name__ == "__main__":
    model_, budget_, seconds_, seed_ = sys.argv[1:]
    with Llama(model_, memory=int(budget_), n_ctx=512, n_ubatch=64, verbose=False) as llm_:
        done = Requests(llm_, int(budget_), int(seed_)).run(float(seconds_))
    sys.stdout.write(json.dumps(asdict(done)) + "\n")
