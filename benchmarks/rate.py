"""Decode rate over the physical bound, at several budgets.

    python benchmarks/rate.py MODEL --drive 500MB/s

The bound is ``1 / max(C, S* / B)``: C the median step of llama.cpp in memory (``--reference``), B
our reader over the same pieces with nothing computed, S* what any engine would have to stream: the
weights without the embedding table, less what is left of the budget after process, KV cache,
compute buffers and 64 MiB. Rounds of B, ours, C, ours, B; the figure is the median of the per-round
ratios. With ``--busy`` the neighbour computes while B and C are measured, too.
"""

from __future__ import annotations

import statistics
from typing import Any

import click
from sides_options import sides_options

from flexinfer.bench.in_group import group_of
from flexinfer.bench.rate_rounds import least_streamed, measure_round
from flexinfer.bench.sides import Sides
from flexinfer.bench.turns import Worker
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.sizes import format_size, parse_size

_COLUMNS = ("drive", "compute", "bound", "step", "wait", "cpu_per_gb")


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--shares", default="25,50,75,90", show_default=True, help="Budgets, % of weights.")
@click.option("--drive", help="Throttle of the drive, as 500MB/s.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--steps", default=4, show_default=True, help="Tokens a measurement.")
@click.option("--ctx", default=512, show_default=True)
@click.option("--strategy", default="flex", show_default=True)
@sides_options
@click.option("--packed", help="A packed copy of the model, which ours reads instead.")
@click.option("--window", help="Bytes of the window; default: planned.")
@click.option(
    "--busy",
    is_flag=True,
    help="A Python thread computes in our process all the time, also while C and B are measured.",
)
def main(
    model: str,
    shares: str,
    drive: str | None,
    rounds: int,
    steps: int,
    ctx: int,
    strategy: str,
    packed: str | None,
    window: str | None,
    busy: bool,
    sides: Sides,
) -> None:
    weights = read_catalogue(model).nbytes
    rate = parse_size(drive.removesuffix("/s")) if drive else None
    options = {"n_ctx": ctx, "n_batch": 32, "n_ubatch": 32, "n_threads": 2, "n_threads_batch": 2}
    click.echo(
        f"{model}: {format_size(weights)} of weights, drive {drive or 'as it is'}; {sides}"
        f"{', from a packed copy' if packed else ''}"
    )
    click.echo(
        "| budget | S* | B GB/s | C ms | bound ms | ours ms | wait | ratio (min-max) | CPU s/GB |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|")
    with Worker("plain", model, options | sides.beside) as plain:
        for share in map(int, shares.split(",")):
            budget = weights * share // 100
            asked: dict[str, Any] = {"memory": budget, "strategy": strategy, "window": window}
            asked |= {"busy": busy, "mirrors": [packed] if packed else []}
            asked |= options | sides.own
            with group_of(model, rate=rate) as group, Worker("ours", model, asked, group) as ours:
                _row(f"{share} % {format_size(budget)}", weights, ours, plain, rounds, steps)


def _row(label: str, weights: int, ours: Worker, plain: Worker, rounds: int, steps: int) -> None:
    least = least_streamed(weights, ours.facts)
    found = [measure_round(ours, plain, steps, least) for _ in range(rounds)]
    ratios = [each.ratio for each in found]
    middle = {name: statistics.median(getattr(each, name) for each in found) for name in _COLUMNS}
    click.echo(
        f"| {label} | {format_size(least)} | {middle['drive'] / 1e9:.2f} "
        f"| {1000 * middle['compute']:.0f} | {1000 * middle['bound']:.0f} "
        f"| {1000 * middle['step']:.0f} | {1000 * middle['wait']:.0f} "
        f"| {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) "
        f"| {middle['cpu_per_gb']:.3f} |"
    )


if __name__ == "__main__":
    main()
