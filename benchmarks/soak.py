"""Mixed requests with changing budgets under a group's limit: nothing may grow or deviate.

    python benchmarks/soak.py MODEL --minutes 1 --memory 160MiB

One process in a cgroup of exactly that size, without swap, answers greedy, sampled and abandoned
requests, changes its budget between and during them, and gives its memory back at random. Each
answer is compared with the first one to the same request. Memory is sampled from outside every
10 ms; descriptors, threads and anonymous bytes are those after the first tenth and at the end, when
all weights were just given back. Beside the anonymous bytes stand those in use in malloc and the
blocks Python has: what grows in the first alone is memory that was freed but lies between pieces in
use.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from flexinfer import Llama
from flexinfer.bench.limits import limited
from flexinfer.errors import BudgetError
from flexinfer.sizes import format_size, parse_size

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


class Worker:
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
        _in_malloc(),
        sys.getallocatedblocks(),
        int(fields["Threads"]),
        len(os.listdir("/proc/self/fd")),
    )


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    ]


def _in_malloc() -> int:
    """Bytes that callers of malloc hold, in all its arenas and in mappings of their own."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--minutes", default=1.0, show_default=True)
@click.option("--memory", default="160MiB", show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--worker", is_flag=True, hidden=True)
def main(model: str, minutes: float, memory: str, seed: int, worker: bool) -> None:
    budget = parse_size(memory)
    if worker:
        with Llama(model, memory=budget, n_ctx=512, n_ubatch=64, verbose=False) as llm:
            click.echo(json.dumps(asdict(Worker(llm, budget, seed).run(minutes * 60))))
        return
    command = [sys.executable, __file__, model, "--worker"]
    command += ["--minutes", str(minutes), "--memory", memory, "--seed", str(seed)]
    with limited(memory=budget) as group, group.watch() as peak:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, preexec_fn=group.join)
        kills = group.oom_kills
    if done.returncode:
        raise click.ClickException(f"the worker ended with {done.returncode}, {kills} OOM kills")
    soak = json.loads(done.stdout)
    settled, last = soak["states"][0], soak["states"][-1]
    click.echo(
        json.dumps(
            {
                "model": Path(model).name,
                "minutes": minutes,
                "memory": format_size(budget),
                "sampled_peak": format_size(peak.peak),
                "over_budget": peak.peak > budget,
                "oom_kills": kills,
                **{k: v for k, v in soak.items() if k != "states"},
                "settled": settled,
                "last": last,
                **{
                    what: [state[what] for state in soak["states"]]
                    for what in ("anonymous", "malloc", "python_blocks")
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
