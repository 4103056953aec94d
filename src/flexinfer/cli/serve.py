"""`flexinfer serve`: llama.cpp's server with its API, inside the budget."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.announce import first_lines
from flexinfer.cli.drafts import served_draft_option
from flexinfer.cli.models import local_model
from flexinfer.cli.options import Words, engine_options
from flexinfer.cli.serving import serve_settings, until_lost
from flexinfer.cli.slots import Slots
from flexinfer.cli.streams import log, log_line, say
from flexinfer.errors import FlexInferError
from flexinfer.sizes import format_size
from flexinfer.text import one_line

if TYPE_CHECKING:
    from flexinfer.serve.models import ServedModel
    from flexinfer.serve.planned import Planned
    from flexinfer.serve.settings import Settings

_LOOPBACK = ("127.", "localhost", "::1")
_UNITS = {"s": 1, "min": 60, "h": 3600}


class Duration(click.ParamType[float]):
    """A time such as 10min, in seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", str(value))
        if found is None:
            self.fail(f"{value!r} is no time; write it as 30s, 10min or 2h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class HeaderText(Words):
    """A text that a header of HTTP can hold."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = super().convert(value, param, ctx)
        if not text or text != text.strip() or not text.isprintable():
            self.fail(
                "it cannot stand in a header of HTTP; give a text of one line that is not empty "
                "and has no spaces around it",
                *(param, ctx),
            )
        return text


@click.command(name="serve")
@click.argument("model", required=False)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- LLAMA-SERVER FLAGS]")
@click.option("--slots", type=Slots(), default=1, help="Answered together; auto: the fastest.")
@engine_options
@served_draft_option
@click.option("--host", type=Words(), default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--api-key",
    type=HeaderText(),
    envvar="FLEXINFER_API_KEY",
    show_envvar=True,
    help="Requests have to bring it.",
)
@click.option(
    "--cors-origins",
    type=HeaderText(),
    default="localhost",
    show_default=True,
    help="Pages that may ask.",
)
@click.option("--alias", type=Words(), help="The model's name in answers.")
@click.option("--lora", multiple=True, type=click.Path(), help="An adapter; may be repeated.")
@click.option("--mmproj", type=click.Path(), help="Projector for images.")
@click.option("--embeddings", is_flag=True, help="Serve embeddings instead of text.")
@click.option("--idle-release", type=Duration(), help="Give weights back after so long, as 10min.")
@click.option("--end-with-fd", type=click.IntRange(0), hidden=True)
@click.option("--build", is_flag=True, help="Build llama.cpp's server, once: some minutes.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON when ready, or why not.")
def command(model: str | None, build: bool, as_json: bool, **options: Any) -> None:
    """Serve MODEL, a GGUF file or hf:user/repo[:quant|:file], over HTTP as llama-server does.

    Flags of llama-server itself follow after --; docs/serve.md lists those that are passed on.
    """
    if build:
        _build()
        if model is None:
            return
    elif model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    try:
        _serve(model, as_json, **options)
    except FlexInferError as error:
        if as_json:
            said = {"raised": type(error).__name__, "message": one_line(str(error))}
            say(json.dumps({"error": said}))
        raise


def _serve(
    model: str, as_json: bool, flags: tuple[str, ...], end_with_fd: int | None, **options: Any
) -> None:
    from flexinfer.serve.ending import Ending

    # Before libraries start threads, which would swallow signals.
    ending = Ending(end_with_fd)
    ending.begin()
    from flexinfer.binding.functions_first import functions_first

    functions_first()
    from flexinfer.serve.library import ServerLibrary

    library = ServerLibrary()
    catalogue = local_model(model, options)
    log(f"{one_line(catalogue.name)}: measuring drive and processor where they are not known yet")
    settings = serve_settings(catalogue, flags, **options)
    from flexinfer.serve.planned import plan_server
    from flexinfer.serve.server import ServingProcess

    planned = plan_server(settings, catalogue)
    for line in planned.sizes.said:
        log(line)
    _warn(settings)
    log(f"loading {planned.sizes}")

    def started(served: ServedModel, port: int) -> None:
        _announce(settings, planned, served, port, as_json)

    server = ServingProcess(library, settings, planned, started, ending, log_line)
    if status := until_lost(server.run):
        raise click.exceptions.Exit(status)


def _build() -> None:
    import platformdirs

    from flexinfer.serve.library import build

    log("building llama.cpp's server: some minutes")
    build(Path(platformdirs.user_cache_dir("flexinfer")) / "server")


def _warn(settings: Settings) -> None:
    keyless = settings.api_key is None and "--api-key-file" not in settings.flags.flags
    if keyless and not settings.host.startswith(_LOOPBACK):
        log(f"anyone who reaches {settings.host} can use this server; give --api-key")


def _announce(
    settings: Settings, planned: Planned, served: ServedModel, port: int, as_json: bool
) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http{'s' if settings.flags.tls else ''}://{host}:{port}"
    sizes = planned.sizes
    if as_json:
        document = {
            "address": address,
            "pid": os.getpid(),
            "slots": sizes.slots,
            "slot_ctx": sizes.ctx,
            "ubatch": served.plan.ubatch,
            "budget": settings.budget,
            "mode": served.plan.mode,
            "drives": [asdict(share) for share in served.plan.rates.drives],
            "kernels": served.plan.rates.kernels.value,
            "reference": served.plan.rates.kernels.reference,
        }
        say(json.dumps(document))
        return
    budget = format_size(settings.budget)
    for line in first_lines(served.plan):
        log_line(line)
    log(f"{sizes} within {budget}: {address}")
