"""A long prompt while streaming, beside llama.cpp in memory: seconds of the same tokens.

    python benchmarks/prompt.py MODEL --tokens 2000 --share 25

`--share` caps locked weights and window at so many percent of the weights; KV cache and compute
buffers come on top, as they do for llama.cpp. Both take turns in processes of their own, which stay
open if there is memory for both; else each is opened for its turn and computes three prompts in it.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

import click
from sides_options import sides_options

from flexinfer.bench.sides import Sides
from flexinfer.bench.turns import Worker
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.machine.machine import Machine

# One after another vary by a twentieth, and opening takes longer than they do.
_PROMPTS = 3


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--tokens", default=2000, show_default=True)
@click.option("--share", default=25, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@sides_options
@click.option("--ubatch", default=512, show_default=True)
def main(model: str, tokens: int, share: int, rounds: int, ubatch: int, sides: Sides) -> None:
    options = {
        "n_ctx": tokens + 256,
        "n_batch": ubatch,
        "n_ubatch": ubatch,
        "n_threads": 2,
        "n_threads_batch": 2,
    }
    whole = read_catalogue(model).nbytes
    cap = whole * share // 100
    ratios = []
    beside = options | sides.beside
    streaming = options | {"weight_memory": cap} | sides.own
    click.echo(f"{model}: {sides}")
    sides_of = (("plain", beside), ("ours", streaming))
    with ExitStack() as kept:
        both: list[Worker] = []
        if whole + cap < Machine.detect().memory_available:
            both = [kept.enter_context(Worker(kind, model, given)) for kind, given in sides_of]
        for _ in range(rounds):
            if both:
                fast, streamed = (_seconds(worker, tokens) for worker in both)
            else:
                fast, streamed = (_alone(kind, model, given, tokens) for kind, given in sides_of)
            ratios.append(fast / streamed)
            click.echo(f"llama.cpp {fast:.2f} s, ours {streamed:.2f} s")
    click.echo(
        f"{tokens} tokens at {share} %, ubatch {ubatch}: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f}-{max(ratios):.3f}) of {sides.reference.reference}"
    )


def _seconds(worker: Worker, tokens: int) -> float:
    (seconds,) = worker.ask("prompt", tokens)["times"]
    return float(seconds)


def _alone(kind: str, model: str, options: dict[str, Any], tokens: int) -> float:
    with Worker(kind, model, options) as worker:
        return statistics.median(_seconds(worker, tokens) for _ in range(_PROMPTS))


if __name__ == "__main__":
    main()
