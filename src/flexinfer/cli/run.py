"""`flexinfer run`: answer one prompt and say what it took."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from flexinfer.cli.models import local_model
from flexinfer.cli.options import engine_options, llama_options, sampling_options
from flexinfer.errors import RequestError
from flexinfer.generation import TextStream
from flexinfer.sizes import format_size

if TYPE_CHECKING:
    from flexinfer.engine import PassStats
    from flexinfer.llama import Llama

_CONTEXT_STEP = 256
_MAX_UBATCH = 512


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
    temp: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Answer one prompt with MODEL, a GGUF file or hf:user/repo[:quant|:file]."""
    text = _prompt_text(prompt, prompt_file)
    model = local_model(model, engine)
    ids = _tokenize(model, text, verbose)
    context = _context(len(ids), tokens, ctx)
    batch = ubatch or _ubatch(len(ids))
    from flexinfer.llama import Llama

    with Llama(
        model,
        n_ctx=context,
        n_batch=max(batch, min(len(ids), _MAX_UBATCH)),
        n_ubatch=batch,
        seed=seed if seed is not None else int.from_bytes(os.urandom(4), "little"),
        verbose=verbose,
        **llama_options(**engine),
    ) as llm:
        answer = _Answer(llm, stop, loud=not (quiet or as_json))
        if not quiet:
            _announce(llm, engine["memory"], verbose)
        with _reading(llm, shown=not (quiet or as_json) and sys.stderr.isatty()) as ready:
            sampling = {"temp": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p}
            answer.generate(ids, min(tokens, llm.n_ctx() - len(ids)), sampling, ready)
        if as_json:
            click.echo(json.dumps(answer.document(), indent=2))
        elif not quiet:
            click.echo(answer.closing_line(), err=True)


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


def _tokenize(model: str, text: str, verbose: bool) -> list[int]:
    """The prompt's tokens, from the vocabulary alone: the context depends on their number."""
    from flexinfer.gguf import read_catalogue
    from flexinfer.vocabulary import tokenize

    read_catalogue(model)
    return tokenize(model, text, verbose=verbose)


def _context(prompt: int, tokens: int, asked: int | None) -> int:
    if asked is None:
        return -(-(prompt + tokens) // _CONTEXT_STEP) * _CONTEXT_STEP
    if prompt >= asked:
        raise RequestError(
            f"the prompt has {prompt} tokens but the context only {asked}; "
            f"give --ctx {prompt + tokens} or a shorter prompt"
        )
    return asked


def _ubatch(prompt: int) -> int:
    """A power of two that holds the prompt: larger would only cost compute buffers."""
    return min(max(1 << (prompt - 1).bit_length(), 32), _MAX_UBATCH)


def _announce(llm: Llama, memory: int | None, verbose: bool) -> None:
    budget = llm.plan.request.budget
    if llm.plan.request.weight_memory is not None:
        click.echo("--weight-memory: the memory of the process is not limited", err=True)
    elif memory is not None and budget < memory:
        click.echo(f"only {format_size(budget)} of memory are available: using that", err=True)
    click.echo(llm.plan.mode, err=True)
    if verbose:
        for reason in llm.plan.reasons:
            click.echo(f"  {reason}", err=True)


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


class _Answer:
    """The tokens of one answer, and when they came."""

    def __init__(self, llm: Llama, stops: tuple[str, ...], *, loud: bool) -> None:
        self.ids: list[int] = []
        self._llm = llm
        self._text = TextStream(stops)
        self._loud = loud
        self._prompt = 0
        self._opened = self._first = self._last = _since_start()
        self._peak = 0
        self._before: PassStats = llm.stats
        self._decode: PassStats = llm.stats

    def generate(
        self, prompt: list[int], limit: int, sampling: dict[str, Any], ready: threading.Event
    ) -> None:
        llm = self._llm
        self._prompt = len(prompt)
        end = {llm.token_eos(), -1}
        for token in llm.generate(prompt, **sampling):
            self._last = _since_start()
            if not self.ids:
                self._first = self._last
                self._decode = llm.stats
                ready.set()
            self._sample_memory()
            if token in end:
                break
            self.ids.append(token)
            self._show(llm.detokenize([token], prev_tokens=[*prompt, *self.ids[:-1]]))
            if self._text.stopped or len(self.ids) >= limit:
                break
        self._show(b"", final=True)
        if self._loud:
            click.echo()

    def _show(self, piece: bytes, final: bool = False) -> None:
        text = self._text.feed(piece, final)
        if self._loud and text:
            click.echo(text, nl=False)
            sys.stdout.flush()

    def _sample_memory(self) -> None:
        from flexinfer.machine import process_memory

        self._peak = max(self._peak, process_memory())

    def document(self) -> dict[str, Any]:
        decoded = self._llm.stats - self._decode
        passes = max(decoded.passes, 1)
        seconds = self._last - self._first
        busy = decoded.compute_s + decoded.wait_s
        document = {
            "text": self._text.text,
            "token_ids": self.ids,
            "prompt_tokens": self._prompt,
            "generated_tokens": len(self.ids),
            "memory": {**self._llm.memory_use(), "peak": self._peak},
            "speed": {
                "load_s": round(self._opened, 3),
                "first_token_s": round(self._first, 3),
                "decode_tok_s": round((len(self.ids) - 1) / seconds, 4) if seconds > 0 else None,
                "bound_tok_s": round(self._llm.plan.bound_tok_s, 4),
                "read_bytes_per_token": decoded.read_bytes // passes,
                "read_gb_s": round(decoded.read_bytes / busy / 1e9, 3) if busy else 0.0,
                "compute_ms": round(1000 * decoded.compute_s / passes, 3),
                "wait_ms": round(1000 * decoded.wait_s / passes, 3),
            },
        }
        experts = self._llm.experts
        if experts is not None:
            document["experts"] = {
                "slots": list(self._llm.plan.slots),
                "resident": [list(layer) for layer in experts.resident],
                "hit_rate": round(experts.counters.hit_rate, 4),
                "expected_hit_rate": round(self._llm.plan.hit_rate, 4),
                "policy": experts.policy,
            }
        return document

    def closing_line(self) -> str:
        figures = self.document()
        speed, memory, experts = figures["speed"], figures["memory"], figures.get("experts")
        rate = speed["decode_tok_s"]
        found = f" {experts['hit_rate']:.0%} of experts found in memory," if experts else ""
        return (
            f"{self._prompt} + {len(self.ids)} tokens, first after {speed['first_token_s']:.1f} s"
            + (f", then {rate:.2f} tokens/s" if rate else "")
            + f" ({format_size(speed['read_bytes_per_token'])} read per token,{found}"
            f" {speed['compute_ms']:.0f} ms computing, {speed['wait_ms']:.0f} ms waiting)"
            f", peak {format_size(memory['peak'])}"
        )


def _since_start() -> float:
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
