"""Decode rate with a mirror on a second drive over that with one drive.

    python benchmarks/mirror.py MODEL --drives 300MB/s,300MB/s --drives 300MB/s,150MB/s

Each drive is an image file behind a loop device, held to its rate by a control group; the first
alone and both together decode in turns, and then each reads with nothing computed. The bound is
printed first: ``max(C, S / B)`` of each, with C the median step of llama.cpp in memory.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from sides_options import sides_options

from flexinfer.bench.limits import limited
from flexinfer.bench.loop_drive import loop_drive
from flexinfer.bench.sides import Sides
from flexinfer.bench.turns import Worker
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.machine.machine import device_of
from flexinfer.sizes import format_size, parse_size


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--drives", "pairs", multiple=True, default=["300MB/s,300MB/s"], show_default=True)
@click.option("--share", default=50, show_default=True, help="Budget, % of weights.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--steps", default=4, show_default=True, help="Tokens a measurement.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("."))
@sides_options
def main(
    model: str,
    pairs: tuple[str, ...],
    share: int,
    rounds: int,
    steps: int,
    folder: Path,
    sides: Sides,
) -> None:
    budget = read_catalogue(model).nbytes * share // 100
    options = {"n_ctx": 512, "n_batch": 32, "n_ubatch": 32, "n_threads": 2, "n_threads_batch": 2}
    click.echo(f"{model}: budget {format_size(budget)}, {share} % of the weights; {sides}")
    with ExitStack() as stack:
        copies = [stack.enter_context(loop_drive(model, folder)) for _ in range(2)]
        plain = stack.enter_context(Worker("plain", model, options | sides.beside))
        compute = statistics.median(plain.ask("step", steps)["times"])
        for pair in pairs:
            rates = [parse_size(rate.removesuffix("/s")) for rate in pair.split(",")]
            asked = options | {"memory": budget} | sides.own
            _measure(pair, copies, rates, asked, compute, rounds, steps)


def _measure(
    pair: str,
    copies: list[Path],
    rates: list[int],
    asked: dict[str, Any],
    compute: float,
    rounds: int,
    steps: int,
) -> None:
    first, second = map(str, copies)
    devices = [device_of(copy) for copy in copies]
    limits = {device: rate for device, rate in zip(devices, rates, strict=True) if device}
    with (
        limited(read_bps=limits) as group,
        Worker("ours", first, asked, group) as one,
        Worker("ours", first, asked | {"mirrors": [second]}, group) as two,
    ):
        workers = {"one": one, "two": two}
        streamed = {name: worker.facts["streamed"] for name, worker in workers.items()}
        drives = {"one": rates[0], "two": sum(rates)}
        bound = {name: max(compute, streamed[name] / drives[name]) for name in workers}
        click.echo(
            f"{pair}: bound {bound['one']:.3f} s a token with one, {bound['two']:.3f} s with both "
            f"({compute:.3f} s computing), at most {bound['one'] / bound['two']:.2f} times"
        )
        times: dict[str, list[float]] = {"one": [], "two": []}
        ratios = []
        for _ in range(rounds):
            found = {name: worker.ask("step", steps)["times"] for name, worker in workers.items()}
            ratios.append(statistics.median(found["one"]) / statistics.median(found["two"]))
            for name in workers:
                times[name] += found[name]
        reads = {name: worker.ask("read", 2) for name, worker in workers.items()}
    for name in workers:
        seconds, read = statistics.median(times[name]), reads[name]
        rate = read["read"] / sum(read["times"])
        given = " + ".join(f"{nbytes / sum(read['drives']):.0%}" for nbytes in read["drives"])
        click.echo(
            f"  {name}: {seconds:.3f} s a token, {bound[name] / seconds:.2f} of the bound; reading "
            f"alone {rate / 1e6:.0f} MB/s, {given}"
        )
    click.echo(
        f"  {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
