"""What drafts bring one stream, and what they cost where nothing can be drafted.

    python benchmarks/drafts.py MODEL --by SMALL --share 25 --drive 500MB/s

Parts, each of which can be left out:

- `stated`: SMALL drafts four tokens before each pass (llama.cpp's own length, which no policy
  changes) with a mean accepted length of four by its synthetic acceptance, between two servers
  without drafts. The figure counts four tokens a pass, whatever chance accepted of the few passes
  that were timed.
- `serve`, `run`: text in which nothing comes again, with n-grams between two without drafts.
- `off`: `run --draft off`, between two of another tree of the package (`--before SRC`).
- `bits`: passes over several tokens computed with the bits of single ones, over passes that are
  computed as a batch, with all weights in memory and at several budgets.

Each process begins with the model's file out of the page cache, in a group of the budget's size.
"""

from __future__ import annotations

import os
import statistics

import click
from sides_options import sides_options

from flexinfer.bench.cases import parse_rate
from flexinfer.bench.drafts import RANDOM, Stream, computing, keeping, ran, served
from flexinfer.bench.sides import Sides
from flexinfer.bench.together import Setup, drive_rate
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.sizes import format_size

_DRAFTED, _ACCEPTED, _LEAST_TIMES = 4, 4, 2.8
_LEAST_PLAIN = 0.98
_PARTS = "stated,serve,run,bits"
_ROWS = (2, 5, 8, 16)


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--by", "small", type=click.Path(exists=True, dir_okay=False), help="Draft model.")
@click.option("--share", default=25, show_default=True, help="Budget, % of the weights.")
@click.option("--drive", help="Throttle of the drive, as 500MB/s.")
@click.option("--parts", default=_PARTS, show_default=True, help="Also: off.")
@click.option("--before", type=click.Path(exists=True, file_okay=False), help="Another src.")
@click.option("--shares", default="25,50,75,all", show_default=True, help="Budgets of bits.")
@click.option("--ctx", default=512, show_default=True)
@click.option("--skip", default=2, show_default=True, help="Passes left out at the beginning.")
@click.option("--passes", default=10, show_default=True, help="Passes counted.")
@click.option("--rounds", default=1, show_default=True)
@sides_options
def main(
    model: str,
    small: str | None,
    share: int,
    drive: str | None,
    parts: str,
    before: str | None,
    shares: str,
    ctx: int,
    skip: int,
    passes: int,
    rounds: int,
    sides: Sides,
) -> None:
    catalogue = read_catalogue(model)
    cores = os.cpu_count() or 1

    def setup(nbytes: int) -> Setup:
        rate = parse_rate(drive) if drive else None
        return Setup(catalogue.paths, nbytes, rate, cores, ctx, sides, skip, passes, 300.0)

    asked = setup(catalogue.nbytes * share // 100)
    click.echo(
        f"{model}: {format_size(catalogue.nbytes)} of weights, budget {format_size(asked.budget)}, "
        f"context {ctx}, drive {drive or 'as it is'}; {sides}"
    )
    chosen = parts.split(",")
    if "stated" in chosen:
        if small is None:
            raise click.UsageError("the part stated wants a draft model; give --by")
        _stated(asked, small, rounds)
    if "serve" in chosen:
        _beside(asked, rounds)
    if "run" in chosen:
        _runs(asked, rounds, passes, ["--draft", "ngram"], None)
    if "off" in chosen:
        _runs(asked, rounds, passes, [], before)
    if "bits" in chosen:
        for each in shares.split(","):
            # More than all weights: process, cache and buffers stand beside them.
            percent = 140 if each == "all" else int(each)
            _bits(each, setup(catalogue.nbytes * percent // 100))


def _stated(setup: Setup, small: str, rounds: int) -> None:
    """Drafts of a stated acceptance, beside plain passes and beside what the parts allow."""
    one, several = computing(setup, (1, 1 + _DRAFTED))
    (draft,) = computing(Setup(**{**vars(setup), "paths": read_catalogue(small).paths}), (1,))
    drafting = ["--", "-md", small, "--spec-type", "draft-simple"]
    drafting += ["--spec-draft-n-max", str(_DRAFTED), "--spec-synth-len", str(_ACCEPTED)]
    times = []
    for _ in range(rounds):
        drive = drive_rate(setup)
        first = served(setup, [], {})
        drafted = served(setup, drafting, {})
        last = served(setup, [], {})
        drive = (drive + drive_rate(setup)) / 2
        plain = statistics.mean((first.rate, last.rate))
        bound = 1 / max(one, first.streamed / drive)
        reading = drafted.streamed / drive
        drafted_bound = _ACCEPTED / (max(several, reading) + _DRAFTED * draft)
        click.echo(
            f"bound: C(1) {1000 * one:.0f} ms, C({1 + _DRAFTED}) {1000 * several:.0f} ms, "
            f"a drafted token {1000 * draft:.0f} ms, drive {drive / 1e9:.2f} GB/s: {bound:.4f} and "
            f"{drafted_bound:.4f} tokens/s, {drafted_bound / bound:.2f} times"
        )
        _table([("off", first), (f"{_DRAFTED} by a model", drafted), ("off", last)])
        times.append(_ACCEPTED / drafted.pass_s / plain)
        click.echo(
            f"plain {plain / bound:.3f} of its bound, with drafts "
            f"{_ACCEPTED / drafted.pass_s / drafted_bound:.3f}; {times[-1]:.2f} times as fast"
        )
    click.echo(f"stated acceptance: {_spread(times)} times plain, asked {_LEAST_TIMES}")


def _beside(setup: Setup, rounds: int) -> None:
    """n-grams where nothing comes again, of the server."""
    ratios = []
    for _ in range(rounds):
        first, drafted, last = (
            served(setup, ["--draft", way], RANDOM) for way in ("off", "ngram", "off")
        )
        _table([("off", first), ("ngram", drafted), ("off", last)])
        ratios.append(drafted.rate / statistics.mean((first.rate, last.rate)))
    click.echo(f"serve, nothing comes again: {_spread(ratios)} of plain, asked {_LEAST_PLAIN}")


def _runs(setup: Setup, rounds: int, tokens: int, words: list[str], before: str | None) -> None:
    """`run` with `words`, between two without; or this tree between two runs of another one."""
    ratios = []
    for _ in range(rounds):
        first = ran(setup, [], tokens, before)
        middle = ran(setup, words, tokens)
        last = ran(setup, [], tokens, before)
        click.echo(f"run: {first:.4f}, {middle:.4f}, {last:.4f} tokens/s")
        ratios.append(middle / statistics.mean((first, last)))
    what = "nothing comes again" if words else "off, beside before"
    click.echo(f"run, {what}: {_spread(ratios)} of plain, asked {_LEAST_PLAIN}")


def _bits(label: str, setup: Setup) -> None:
    found = keeping(setup, _ROWS)
    cells = [
        f"{rows} tokens {1000 * together:.0f} -> {1000 * kept:.0f} ms ({kept / together:.2f})"
        for rows, together, kept in zip(_ROWS, found["together"], found["kept"], strict=True)
    ]
    memory = found["memory"]
    click.echo(
        f"bits, {label if label == 'all' else label + ' %'}: one token {1000 * found['step']:.0f} "
        f"ms; {'; '.join(cells)}; compute buffers {format_size(memory['compute'])}"
    )


def _table(rows: list[tuple[str, Stream]]) -> None:
    click.echo(
        "| drafts | streamed | pass ms | computed | waited | between | tokens a pass | tok/s |"
    )
    click.echo(f"|{8 * '---|'}")
    for label, found in rows:
        seconds = (found.pass_s, found.computed_s, found.waited_s, found.between_s)
        shown = " | ".join(f"{1000 * each:.0f}" for each in seconds)
        click.echo(
            f"| {label} | {format_size(found.streamed)} | {shown} | {found.tokens:.2f} "
            f"| {found.rate:.4f} |"
        )


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


if __name__ == "__main__":
    main()
