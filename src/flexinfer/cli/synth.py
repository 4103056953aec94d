"""`flexinfer synth`: write a random-weight model of a real shape."""

from __future__ import annotations

from pathlib import Path

import click

from flexinfer.cli.numbers import Count
from flexinfer.cli.streams import say
from flexinfer.cli.writing import progress, require_free, writing
from flexinfer.sizes import format_size
from flexinfer.text import one_line


@click.command(name="synth")
@click.argument("preset", required=False)
@click.argument("out", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quant", default="q4_0", show_default=True, help="Type of the matrices.")
@click.option("--seed", type=Count(0), default=0, show_default=True)
@click.option("--split", type=Count(2), help="Write so many shards.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def command(
    preset: str | None, out: Path | None, quant: str, seed: int, split: int | None, force: bool
) -> None:
    """Write a model of PRESET's shape with random weights to OUT.

    Sizes and speeds are those of the real model; what it says means nothing. Without arguments,
    the presets are listed.
    """
    if preset is None:
        _list()
        return
    if out is None:
        raise click.UsageError("name the file to write, as model.gguf")
    require_free(out, split or 1, force)
    from flexinfer.synth.write import write_model

    with writing(out), progress("writing") as report:
        paths = write_model(preset, out, quant, seed=seed, split=split, progress=report)
    for path in paths:
        say(f"{one_line(path)}  {format_size(path.stat().st_size)}")


def _list() -> None:
    from flexinfer.synth.blocks import QUANTS
    from flexinfer.synth.shapes import PRESETS

    width = max(map(len, PRESETS))
    for name, shape in PRESETS.items():
        experts = f", {shape.experts} experts of which {shape.experts_used} are used"
        say(
            f"{name:<{width}}  {shape.architecture}, {shape.layers} layers of {shape.width}"
            + (experts if shape.experts else "")
        )
    say(f"quantisations: {', '.join(QUANTS)}")
