"""`flexinfer batch`: answer a file of requests, as many at a time as pays."""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.announce import first_lines
from flexinfer.cli.drafts import served_draft_option
from flexinfer.cli.models import local_model
from flexinfer.cli.options import engine_options
from flexinfer.cli.serving import serve_settings, until_lost
from flexinfer.cli.slots import Slots
from flexinfer.cli.streams import log, log_line, say

if TYPE_CHECKING:
    from flexinfer.batch.job import Job
    from flexinfer.batch.results import Results
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.serve.drafts import ServedDrafts
    from flexinfer.serve.models import ServedModel

# llama.cpp's server says errors only: it is not what was asked to run.
_FLAGS = ("-lv", "1")
# A log gets a line less often than a terminal is refreshed.
_LINE_SECONDS = 30.0
_REFRESH_SECONDS = 0.5


@click.command(name="batch")
@click.argument("source", type=click.Path(path_type=Path), metavar="IN.jsonl")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.jsonl")
@click.argument("model")
@click.option(
    "--slots",
    type=Slots(),
    default="auto",
    show_default=True,
    help="Requests answered together; auto: the number with the highest rate.",
)
@engine_options
@served_draft_option
@click.option("--lora", multiple=True, type=click.Path(), help="An adapter; may be repeated.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document about the run at the end.")
def command(
    source: Path, out: Path, model: str, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Answer the requests of IN.jsonl with MODEL into OUT.jsonl.

    Both are in the format of OpenAI's batch API. Answers are appended as they come; the same
    command goes on where it was stopped.
    """
    from flexinfer.batch.job import Job
    from flexinfer.batch.results import Results

    with Results(out) as results:
        job = Job(source, results)
        drafts = _answer(job, results, model, quiet=quiet, **options) if job.left else None
        job.finish()
        _tell(job, results, drafts, as_json)


def _answer(
    job: Job, results: Results, model: str, *, quiet: bool, **options: Any
) -> ServedDrafts | None:
    """Have a server of this process answer; returns what drafts came to, if there were any."""
    from flexinfer.serve.ending import Ending

    # Before libraries start threads, which would swallow signals.
    ending = Ending()
    ending.begin()
    from flexinfer.serve.library import ServerLibrary
    from flexinfer.serve.planned import foretold, plan_server
    from flexinfer.serve.server import ServingProcess

    library = ServerLibrary()
    catalogue = local_model(model, options)
    # Nobody else is to be answered meanwhile.
    key = secrets.token_urlsafe()
    options |= {"port": 0, "api_key": key, "embeddings": job.only_embeddings}
    settings = serve_settings(catalogue, _flags(job, catalogue), **options)
    planned = plan_server(settings, catalogue)
    bound = foretold(settings, catalogue, planned.sizes).bound_tok_s
    watching = threading.Event()

    def started(served: ServedModel, port: int) -> None:
        sizes, plan = planned.sizes, served.plan
        if not quiet:
            for line in (*first_lines(plan), *sizes.said, str(sizes)):
                log_line(line)
            threading.Thread(target=_watch, args=(job, watching), daemon=True).start()
        url = f"http://127.0.0.1:{port}"
        ends: Any = {"stopped": lambda: server.stopping, "over": server.stop}
        job.start(url, key, sizes.slots, bound, **ends)

    server = ServingProcess(library, settings, planned, started, ending, log_line)
    try:
        until_lost(server.run)
    finally:
        watching.set()
    return server.drafts


def _flags(job: Job, catalogue: Catalogue) -> tuple[str, ...]:
    """Of llama-server, for these requests."""
    if job.only_embeddings and catalogue.parameter("pooling_type") is None:
        # OpenAI's embeddings are one for a text, which such a model says nothing about.
        return (*_FLAGS, "--pooling", "mean")
    return _FLAGS


def _watch(job: Job, over: threading.Event) -> None:
    """Show how far it is on standard error until it is over."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        while not over.wait(_LINE_SECONDS):
            log(job.progress.line(time.monotonic()))
        return
    with console.status("") as status:
        while not over.wait(_REFRESH_SECONDS):
            status.update(job.progress.line(time.monotonic()))


def _tell(job: Job, results: Results, drafts: ServedDrafts | None, as_json: bool) -> None:
    now = time.monotonic()
    if as_json:
        counted = {} if drafts is None else {"drafts": drafts.document}
        say(json.dumps(job.summary(now) | counted, indent=2))
    else:
        log(job.progress.line(now))
        if drafts is not None:
            log(str(drafts.stats))
    missing = job.total - len(results)
    if missing:
        left = f"{missing} of {job.total} requests are left"
        log(f"{left}: the same command goes on")
        sys.exit(1)
