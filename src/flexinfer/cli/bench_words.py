"""The words of `flexinfer bench`: lists between commas, and the grid that they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexinfer.bench.cases import SYSTEMS, Grid, parse_rate, parse_window
from flexinfer.cli.numbers import Count
from flexinfer.errors import SizeError
from flexinfer.sizes import is_share, parse_share, parse_size

if TYPE_CHECKING:
    from flexinfer.gguf.catalogue import Catalogue

_COUNT = Count(1)


def listed(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str]:
    """Words between commas."""
    return [part.strip() for part in (value or "").split(",") if part.strip()]


def rates(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int | None]:
    """Bytes/s of drives; None: as it is."""
    words = listed(ctx, param, value) or ["native"]
    try:
        return [None if word == "native" else parse_rate(word) for word in words]
    except SizeError as error:
        raise click.BadParameter(f"{error} or 'native'", ctx, param) from error


def counts(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:
    """Numbers from 1 on between commas."""
    return [_COUNT.convert(word, param, ctx) for word in listed(ctx, param, value)]


def grid_of(
    catalogue: Catalogue,
    budgets: list[str],
    systems: list[str],
    drives: list[int | None],
    cores: list[int],
    windows: list[str],
) -> Grid:
    """What is compared.

    Raises:
        UsageError: a word is none of those that there are.
        RequestError: windows in layers of a model that has none.
    """
    unknown = [system for system in systems if system not in SYSTEMS]
    if unknown:
        raise click.UsageError(f"there is no strategy {unknown[0]!r}; take of {', '.join(SYSTEMS)}")
    if not budgets:
        raise click.UsageError("--budgets names none; give one, as 50% or 2GiB")
    try:
        sizes = [_budget(text, catalogue.nbytes) for text in budgets]
        ahead = [parse_window(text, catalogue) for text in windows]
    except SizeError as error:
        raise click.UsageError(str(error)) from error
    return Grid(
        sizes,
        systems,
        drives,
        cores,
        [None, *ahead],
        too_little=max((size for size in sizes if size < catalogue.nbytes), default=None),
    )


def _budget(text: str, weights: int) -> int:
    return int(weights * parse_share(text)) if is_share(text) else parse_size(text)
