"""Both sets of kernels side by side in memory: is the one that is chosen the faster one?

    python benchmarks/kernels.py MODEL --rounds 3

What the choice is by: 512 tokens of prompt and 128 of an answer. Stock llama.cpp, which packs, and
llama.cpp --no-repack take turns in processes of their own.
"""

from __future__ import annotations

import statistics

import click

from flexinfer.bench.sides import Sides
from flexinfer.bench.turns import Worker
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.kernels import ANSWER, PROMPT


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--rounds", default=3, show_default=True)
@click.option("--answer", default=ANSWER, show_default=True, help="Tokens measured of an answer.")
def main(model: str, rounds: int, answer: int) -> None:
    sizes = {"n_ctx": PROMPT + ANSWER + 128, "n_batch": PROMPT, "n_ubatch": PROMPT}
    options = sizes | {"n_threads": 2, "n_threads_batch": 2}
    chosen = Sides.of(model, None).ours
    seconds: dict[Kernels, list[float]] = {kernels: [] for kernels in Kernels}
    with (
        Worker("plain", model, options | {"repack": True}) as packed,
        Worker("plain", model, options | {"repack": False}) as plain,
    ):
        workers = {Kernels.PACKED: packed, Kernels.PLAIN: plain}
        for _ in range(rounds):
            for kernels, worker in workers.items():
                (prompt,) = worker.ask("prompt", PROMPT)["times"]
                token = statistics.median(worker.ask("step", answer)["times"])
                seconds[kernels].append(prompt + ANSWER * token)
                click.echo(f"{kernels.value}: prompt {prompt:.2f} s, a token {1000 * token:.1f} ms")
    best = min(statistics.median(times) for times in seconds.values())
    share = best / statistics.median(seconds[chosen])
    click.echo(f"chosen: {chosen.value}, {share:.3f} of the better set's rate")


if __name__ == "__main__":
    main()
