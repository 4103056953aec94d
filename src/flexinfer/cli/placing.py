"""Options for what is used beside memory and drive: workers, graphics cards, other drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from flexinfer.cli.numbers import Count
from flexinfer.errors import RequestError


class Workers(click.ParamType[tuple[str, ...]]):
    """Endpoints of workers, by commas."""

    name = "endpoints"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        from flexinfer.workers.endpoint import read_endpoints

        try:
            return read_endpoints(value) if value else ()
        except RequestError as error:
            self.fail(str(error), param, ctx)


class Layers(click.ParamType[int]):
    """Layers on graphics cards; -1 means all."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        layers = Count(-1).convert(value, param, ctx)
        if not layers:
            return 0
        from flexinfer.native.cards import cards

        if not cards():
            self.fail(
                "the installed llama.cpp has no backend for graphics cards; install "
                "llama-cpp-python with one, or leave --gpu-layers out",
                param,
                ctx,
            )
        return layers


PLACING: list[Callable[[Any], Any]] = [
    click.option(
        "--rpc",
        type=Workers(),
        default="",
        metavar="HOST:PORT[,...]",
        help="Workers whose memory takes whole layers; each runs `flexinfer worker`.",
    ),
    click.option(
        "--gpu-layers",
        type=Layers(),
        default=0,
        help="So many of the first layers go to graphics cards; -1: all.",
    ),
    click.option(
        "--mirror",
        "mirrors",
        type=click.Path(),
        multiple=True,
        help="A copy of the model on another drive, which is read beside it, or one that "
        "`flexinfer pack` wrote, which is read instead: a file, or a folder; may be repeated.",
    ),
]
