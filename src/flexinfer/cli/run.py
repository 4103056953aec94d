"""`flexinfer run`: answer one prompt and say what it took."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.announce import announce
from flexinfer.cli.answer import Report
from flexinfer.cli.drafts import draft_option
from flexinfer.cli.inputs import Asked, Extras, extra_options, prompt_options
from flexinfer.cli.models import local_model
from flexinfer.cli.numbers import TOKENS
from flexinfer.cli.options import (
    Sampling,
    engine_options,
    llama_options,
    sampling_options,
)
from flexinfer.cli.streams import log, say

if TYPE_CHECKING:
    from flexinfer.chat.answering import Answer
    from flexinfer.chat.seeing import SeenAnswer
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.llama import Llama

# What most projectors make of an image, at most.
_IMAGE_TOKENS = 1024


@click.command(name="run")
@click.argument("model")
@prompt_options
@click.option("-n", "tokens", type=TOKENS, default=128, show_default=True)
@extra_options
@engine_options
@draft_option
@sampling_options
@click.option("-q", "--quiet", is_flag=True, help="Nothing but the answer.")
@click.option("-v", "--verbose", is_flag=True, help="llama.cpp's messages and the plan's reasons.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(
    model: str,
    asked: Asked,
    tokens: int,
    extras: Extras,
    draft: str,
    ctx: int | None,
    ubatch: int | None,
    sampling: Sampling,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Answer one prompt with MODEL, a GGUF file or hf:user/repo[@revision][:quant|:file]."""
    text, seen = asked.text(), asked.seen()
    choosing = {**sampling.arguments, **extras.constraint()}
    catalogue = local_model(model, engine)
    from flexinfer.cli.sizes import run_sizes
    from flexinfer.llama import Llama

    # The context depends on their number.
    written, ids = _tokens(catalogue, text, len(seen), as_chat=asked.as_chat, loud=verbose)
    options = {**llama_options(**engine), **extras.model_options(), **_projector(asked.mmproj)}
    with Llama(
        catalogue.paths[0],
        catalogue=catalogue,
        **asdict(run_sizes(len(ids) + len(seen) * _IMAGE_TOKENS, tokens, ctx, ubatch)),
        seed=sampling.seed,
        draft=draft,
        verbose=verbose,
        **options,
    ) as llm:
        if not quiet:
            announce(llm, engine["memory"], sampling.seed, verbose)
        choosing |= {"limit": tokens, "stops": sampling.stop}
        pictures = options.get("chat_handler")
        answer = _answer(llm, ids, written, seen, pictures, choosing)
        _show(llm, answer, sampling.seed, quiet=quiet, as_json=as_json)


def _answer(
    llm: Llama,
    ids: Sequence[int],
    written: str,
    images: list[bytes],
    pictures: Any,
    choosing: dict[str, Any],
) -> Answer | SeenAnswer:
    if images:
        from flexinfer.chat.seeing import SeenAnswer

        return SeenAnswer(llm, pictures, written, images, **choosing)
    from flexinfer.chat.answering import Answer

    return Answer(llm, ids, **choosing)


def _projector(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    from flexinfer.binding.pictures import Pictures

    return {"chat_handler": Pictures(str(path))}


def _tokens(
    catalogue: Catalogue, text: str, images: int, *, as_chat: bool, loud: bool
) -> tuple[str, Sequence[int]]:
    """The prompt as it is written for the model, and its tokens."""
    from flexinfer.binding.tokenize import tokenize
    from flexinfer.native.device.device import device

    written = text

    def write(bos: str, eos: str) -> tuple[str, bool]:
        nonlocal written
        if not as_chat:
            return text, True
        from flexinfer.binding.pictures import MARKER
        from flexinfer.chat.writing import Writing

        writing = Writing(catalogue.metadata, bos, eos)
        content = f"{MARKER}\n" * images + text
        written = writing.write([{"role": "user", "content": content}])
        return written, not writing.has_bos(written)

    ids = tokenize(catalogue.paths[0], write, verbose=loud, survive=device().survive)
    return written, ids


def _show(
    llm: Llama, answer: Answer | SeenAnswer, seed: int, *, quiet: bool, as_json: bool
) -> None:
    report = Report(llm, answer, seed, loud=not as_json)
    with _reading(llm, shown=not (quiet or as_json) and sys.stderr.isatty()) as ready:
        report.follow(ready)
    if as_json:
        say(json.dumps(report.document(), indent=2))
    elif not quiet:
        log(report.closing_line())


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
