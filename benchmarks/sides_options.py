"""Options that benchmarks share: the kernels of ours, and the llama.cpp that stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from flexinfer.bench.sides import REFERENCES, SAME, Sides


def sides_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a benchmark of `model`; the command gets `Sides` as `sides`."""

    @wraps(command)
    def decided(*, repack: bool | None, reference: str, **options: Any) -> Any:
        return command(sides=Sides.of(options["model"], repack, reference), **options)

    choice = click.Choice([SAME, *REFERENCES])
    reference = click.option(
        "--reference",
        type=choice,
        default=SAME,
        show_default=True,
        help="llama.cpp beside ours: with the same kernels, as it comes, or with --no-repack.",
    )
    repack = click.option(
        "--repack/--no-repack", default=None, help="Our kernels. Default: what is faster here."
    )
    return repack(reference(decided))
