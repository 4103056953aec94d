"""`flexinfer run`: answer one prompt and say what it took."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

import click

from flexinfer.cli.announce import announce
from flexinfer.cli.answer import Report
from flexinfer.cli.models import local_model
from flexinfer.cli.options import Sampling, engine_options, llama_options, sampling_options
from flexinfer.errors import RequestError

if TYPE_CHECKING:
    from flexinfer.chat.answering import Answer
    from flexinfer.llama import Llama


@click.command(name="run")
@click.argument("model")
@click.option("-p", "--prompt", help="The prompt; default: standard input.")
@click.option("-f", "--file", "prompt_file", type=click.File("r"), help="Read the prompt from it.")
@click.option("-n", "tokens", type=click.IntRange(1), default=128, show_default=True)
@engine_options
@sampling_options
@click.option("-q", "--quiet", is_flag=True, help="Nothing but the answer.")
@click.option("-v", "--verbose", is_flag=True, help="llama.cpp's messages and the plan's reasons.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(
    model: str,
    prompt: str | None,
    prompt_file: TextIO | None,
    tokens: int,
    ctx: int | None,
    ubatch: int | None,
    sampling: Sampling,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Answer one prompt with MODEL, a GGUF file or hf:user/repo[@revision][:quant|:file]."""
    text = _prompt_text(prompt, prompt_file)
    catalogue = local_model(model, engine)
    from flexinfer.binding.tokenize import tokenize
    from flexinfer.foretell import run_sizes
    from flexinfer.native.device.device import device

    # The context depends on their number.
    ids = tokenize(catalogue.paths[0], text, verbose=verbose, survive=device().survive)
    sizes = run_sizes(len(ids), tokens, ctx, ubatch)
    from flexinfer.chat import answering
    from flexinfer.llama import Llama

    with Llama(
        catalogue.paths[0],
        catalogue=catalogue,
        **asdict(sizes),
        seed=sampling.seed,
        verbose=verbose,
        **llama_options(**engine),
    ) as llm:
        if not quiet:
            announce(llm, engine["memory"], verbose)
        answer = answering.Answer(llm, ids, tokens, sampling.stop, **sampling.arguments)
        _show(llm, answer, quiet=quiet, as_json=as_json)


def _show(llm: Llama, answer: Answer, *, quiet: bool, as_json: bool) -> None:
    report = Report(llm, answer, loud=not (quiet or as_json))
    with _reading(llm, shown=not (quiet or as_json) and sys.stderr.isatty()) as ready:
        report.follow(ready)
    if as_json:
        click.echo(json.dumps(report.document(), indent=2))
    elif not quiet:
        click.echo(report.closing_line(), err=True)


def _prompt_text(prompt: str | None, prompt_file: TextIO | None) -> str:
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("give either -p or -f")
    if prompt is None and prompt_file is None and sys.stdin.isatty():
        raise click.UsageError("give a prompt with -p, -f or on standard input")
    try:
        text = prompt if prompt is not None else (prompt_file or sys.stdin).read()
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt is not UTF-8 text: {error.reason}") from error
    if not text:
        raise RequestError("the prompt is empty; give some text")
    return text


@contextmanager
def _reading(llm: Llama, *, shown: bool) -> Iterator[threading.Event]:
    """A progress bar over the bytes of the first pass, until the yielded event is set."""
    ready = threading.Event()
    if not shown:
        yield ready
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    total = llm.plan.locked_bytes + llm.plan.streamed_bytes

    def watch() -> None:
        with progress:
            task = progress.add_task("", total=total)
            while not ready.wait(0.1):
                progress.update(task, completed=min(llm.read_bytes, total))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield ready
    finally:
        ready.set()
        watcher.join()
