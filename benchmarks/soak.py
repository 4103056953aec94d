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

import json
import sys
from pathlib import Path

import click

from flexinfer.bench.in_group import run_in_group
from flexinfer.sizes import format_size, parse_size


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--minutes", default=1.0, show_default=True)
@click.option("--memory", default="160MiB", show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(model: str, minutes: float, memory: str, seed: int) -> None:
    budget = parse_size(memory)
    command = [sys.executable, "-m", "flexinfer.bench.soak", model, str(budget)]
    run = run_in_group([*command, str(minutes * 60), str(seed)], model, budget)
    states = run.document.pop("states")
    document = {
        "model": Path(model).name,
        "minutes": minutes,
        "memory": format_size(budget),
        "sampled_peak": format_size(run.peak),
        "over_budget": run.peak > budget,
        "oom_kills": run.kills,
        **run.document,
        "settled": states[0],
        "last": states[-1],
    }
    for what in ("anonymous", "malloc", "python_blocks"):
        document[what] = [state[what] for state in states]
    click.echo(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
