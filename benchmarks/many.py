"""Several streams of one server, together and beside the bound.

    python benchmarks/many.py MODEL --share 25 --slots 1,8,16 --plain 1,8,16

The bound of n slots is ``n / max(C(n), S(n) / B)``. For each n there is one `flexinfer serve` in a
group of the budget's size; its engine counts tokens between two ends of passes at which all streams
were decoding. C(n) is llama.cpp's own decoding of n rows with the same kernels and all weights in
memory, B our reader with nothing computed, before and after each server; S(n) what the server's
plan streams a pass. `with packing, asking` is that bound where packing what streams and what its
reads ask of the processors come on top of C(n), at the rates of the plan. `predicted` is what
`flexinfer plan --slots` said before. For the numbers in
`--plain` llama.cpp's server with mmap runs in the same group, and with `--mmap` one stream of
llama.cpp.
"""

from __future__ import annotations

import os
from typing import Any

import click
from sides_options import sides_options

from flexinfer.bench.cases import MMAP, Case, parse_rate
from flexinfer.bench.running import Job, run_case
from flexinfer.bench.sides import Sides
from flexinfer.bench.together import Setup, measure, measure_plain_server
from flexinfer.errors import EngineError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.sizes import format_size


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--share", default=25, show_default=True, help="Budget, % of the weights.")
@click.option("--slots", default="1,8,16", show_default=True)
@click.option("--kv-type", default="f16", show_default=True)
@click.option("--ctx", default=256, show_default=True, help="Tokens of a slot.")
@click.option("--drive", help="Throttle of the drive, as 500MB/s.")
@click.option("--skip", default=8, show_default=True, help="Passes left out at the beginning.")
@click.option("--passes", default=12, show_default=True, help="Passes counted.")
@click.option("--seconds", default=90.0, show_default=True, help="Counting ends after these.")
@click.option("--rounds", default=1, show_default=True)
@click.option("--plain", default="", help="Slots of llama.cpp's server beside it, as 1,8.")
@click.option("--packed", help="A packed copy of the model, which ours reads instead.")
@click.option("--mmap", is_flag=True, help="One stream of llama.cpp with mmap beside it.")
@sides_options
def main(
    model: str,
    share: int,
    slots: str,
    kv_type: str,
    ctx: int,
    drive: str | None,
    skip: int,
    passes: int,
    seconds: float,
    rounds: int,
    plain: str,
    packed: str | None,
    mmap: bool,
    sides: Sides,
) -> None:
    catalogue = read_catalogue(model)
    budget = catalogue.nbytes * share // 100
    cores = os.cpu_count() or 1
    setup = Setup(
        paths=catalogue.paths,
        budget=budget,
        drive=parse_rate(drive) if drive else None,
        cores=cores,
        ctx=ctx,
        sides=sides,
        skip=skip,
        passes=passes,
        seconds=seconds,
        packed=packed,
    )
    click.echo(
        f"{model}: {format_size(catalogue.nbytes)} of weights, budget {format_size(budget)}, "
        f"context {ctx} a slot, cache {kv_type}, drive {drive or 'as it is'}; {sides}"
        f"{', from a packed copy' if packed else ''}"
    )
    ubatch = 64
    reached: dict[int, float] = {}
    if slots:
        click.echo(
            "| slots | C(n) ms | S(n) | B GB/s | bound tok/s | with packing, asking | predicted "
            "| reached | of bound | of prediction | computed ms | waited ms | drive at rest ms "
            "| read | passes |"
        )
        click.echo(f"|{15 * '---|'}")
        with setup.plain(kv_type) as beside:
            for _ in range(rounds):
                for number in map(int, slots.split(",")):
                    found = measure(setup, beside, number, kv_type)
                    ubatch = found["ubatch"]
                    reached[number] = found["tok_s"]
                    click.echo(_row(number, found))
    for number in map(int, filter(None, plain.split(","))):
        result = measure_plain_server(setup, number, kv_type, ubatch)
        shown = result.get("failed") or f"{result['tok_s']:.3f} tok/s, {result['passes']} passes"
        if number in reached and "failed" not in result:
            shown += f"; ours {reached[number] / result['tok_s']:.2f} times"
        click.echo(f"llama.cpp's server with mmap, {number} slots: {shown}")
    if mmap:
        rate = _mmap(setup)
        click.echo(f"llama.cpp with mmap, one stream: {rate:.4f} tok/s")
        for number, own in reached.items():
            click.echo(f"ours with {number} slots: {own / rate:.1f} times that")


def _row(number: int, found: dict[str, Any]) -> str:
    rate, bound, predicted = (found[key] for key in ("tok_s", "bound_tok_s", "predicted_tok_s"))
    cells = [
        str(number),
        f"{1000 * found['compute_s']:.0f}",
        format_size(found["streamed_bytes"]),
        f"{found['drive_rate'] / 1e9:.2f}",
        f"{bound:.3f}",
        f"{found['busy_bound_tok_s']:.3f}",
        f"{predicted:.3f}",
        f"{rate:.3f}",
        f"{rate / bound:.3f}",
        f"{rate / predicted:.3f}",
        *(f"{1000 * found['per_pass'][name]:.0f}" for name in ("compute_s", "wait_s", "idle_s")),
        format_size(found["per_pass"]["read_bytes"]),
        str(found["passes"]),
    ]
    return f"| {' | '.join(cells)} |"


def _mmap(setup: Setup) -> float:
    job = Job(setup.paths, tokens=5, seconds=setup.seconds, ctx=setup.ctx)
    result = run_case(Case(MMAP, setup.budget, setup.drive, setup.cores), job)
    if "failed" in result:
        raise EngineError(f"llama.cpp with mmap: {result['failed']}")
    return 1 / float(result["step_s"])


if __name__ == "__main__":
    main()
