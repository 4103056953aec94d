"""`flexinfer pack`: write a copy of a model that is packed already."""

from __future__ import annotations

from pathlib import Path

import click

from flexinfer.cli.streams import say
from flexinfer.cli.writing import progress, require_free, writing
from flexinfer.sizes import format_size
from flexinfer.text import one_line


@click.command(name="pack")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace files that are there.")
def command(model: str, out: Path, force: bool) -> None:
    """Write a copy of MODEL to OUT whose weights are packed for this processor's kernels.

    With --mirror OUT it is read instead of MODEL: nothing is packed any more between the drive and
    memory. The output is the same.
    """
    from flexinfer.cli.models import runnable
    from flexinfer.packed import pack

    require_free(out, len(runnable(model).paths), force)
    with writing(out), progress("packing") as report:
        paths = pack(model, out, progress=report)
    for path in paths:
        say(f"{one_line(path)}  {format_size(path.stat().st_size)}")
