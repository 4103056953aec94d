"""Options that several commands share, and what they mean to `flexinfer.Llama`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flexinfer.cli.numbers import THREADS, TOKENS, Count, Fraction, Seed
from flexinfer.cli.placing import PLACING
from flexinfer.cli.streams import log_line
from flexinfer.errors import RequestError, SizeError
from flexinfer.gguf.estimate import KV_TYPES, needs_flash_attention
from flexinfer.planning.strategies import STRATEGIES
from flexinfer.sizes import is_share, parse_size
from flexinfer.text import typed

if TYPE_CHECKING:
    from flexinfer.foretell import Arguments

Command = TypeVar("Command", bound=Callable[..., Any])

# What `--memory auto` becomes: no size, so that whoever needs one takes the default.
AUTO = 0


class Size(click.ParamType[int]):
    """A byte size such as 6GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(value)
        except SizeError as error:
            self.fail(str(error), param, ctx)


class Budget(Size):
    """A byte size, a share of the memory there is, or `AUTO`."""

    name = "size|share|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and value.strip().lower() == "auto":
            return AUTO
        if not is_share(value):
            return super().convert(value, param, ctx)
        from flexinfer.machine.budget import wished_budget
        from flexinfer.machine.machine import Machine

        try:
            return wished_budget(value, Machine.detect())
        except SizeError as error:
            self.fail(str(error), param, ctx)


class Words(click.ParamType[str]):
    """A text, of whose bytes each is part of a character."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return typed(value, f"the text of {param.opts[-1] if param else 'an option'}")
        except RequestError as error:
            self.fail(str(error), param, ctx)


def _apply(options: list[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def engine_options(command: Command) -> Command:
    """How a model is held and computed."""
    return _apply(
        [
            click.option(
                "--memory",
                type=Budget(),
                help="Budget of the process, as 6GiB or 50% of the machine's or the group's "
                "memory; auto follows what the machine can spare.",
            ),
            click.option(
                "--weight-memory",
                type=Size(),
                help="Cap on locked weights and window alone; the process is then not limited.",
            ),
            click.option("--ctx", type=TOKENS, help="Context in tokens."),
            click.option("--threads", type=THREADS, help="Default: physical cores."),
            click.option("--ubatch", type=TOKENS, help="Prompt tokens a pass."),
            click.option("--kv-type", type=click.Choice(list(KV_TYPES)), default="f16"),
            click.option(
                "--strategy",
                type=click.Choice(list(STRATEGIES)),
                default="flex",
                help="Which weights stay in memory.",
            ),
            click.option("--window", type=Size(), help="Bytes that reads run ahead."),
            click.option(
                "--flash-attn/--no-flash-attn",
                default=None,
                help="Use flash attention. Default: where llama.cpp can.",
            ),
            click.option(
                "--repack/--no-repack",
                default=None,
                help="Compute with llama.cpp's packed kernels. Default: what is faster here.",
            ),
            *PLACING,
        ],
        command,
    )


@dataclass(frozen=True)
class Sampling:
    """What `sampling_options` collected; `stop` are texts that end the answer."""

    temp: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    stop: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `Llama.generate`."""
        return {name: getattr(self, name) for name in ("temp", "top_k", "top_p", "min_p")}


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How the next token is chosen: the command gets a `Sampling` as `sampling`."""
    names = [field.name for field in fields(Sampling)]

    @wraps(command)
    def sampled(**options: Any) -> Any:
        sampling = Sampling(**{name: options.pop(name) for name in names})
        return command(sampling=sampling, **options)

    return _apply(
        [
            click.option("--temp", type=Fraction(0), default=0.8, show_default=True),
            click.option("--top-k", type=Count(), default=40, show_default=True),
            click.option("--top-p", type=Fraction(0, 1), default=0.95, show_default=True),
            click.option("--min-p", type=Fraction(0, 1), default=0.05, show_default=True),
            click.option(
                "--seed",
                type=Seed(),
                default=-1,
                help="Default: a new one each time, which -v and --json tell.",
            ),
            click.option(
                "--stop",
                type=Words(),
                multiple=True,
                help="Stop before this text; may be repeated.",
            ),
        ],
        sampled,
    )


def llama_options(
    memory: int | None,
    weight_memory: int | None,
    threads: int | None,
    kv_type: str,
    strategy: str,
    window: int | None,
    flash_attn: bool | None,
    repack: bool | None,
    rpc: tuple[str, ...],
    gpu_layers: int,
    mirrors: tuple[str, ...],
) -> dict[str, Any]:
    """Keyword arguments for `flexinfer.Llama` from what `engine_options` collected."""
    return {
        "memory": "auto" if memory == AUTO else memory,
        "on_move": log_line,
        "weight_memory": weight_memory,
        "n_threads": threads,
        "n_threads_batch": threads,
        "type_k": KV_TYPES[kv_type],
        "type_v": KV_TYPES[kv_type],
        "flash_attn": True if needs_flash_attention(kv_type) else flash_attn,
        "repack": repack,
        "rpc": rpc,
        "n_gpu_layers": gpu_layers,
        "mirrors": mirrors,
        "on_lost": log_line,
        "strategy": strategy,
        "window": window,
    }


def plan_arguments(engine: dict[str, Any]) -> Arguments:
    """What a plan depends on, from what `engine_options` collected."""
    from flexinfer.foretell import Arguments

    options = llama_options(**engine)
    names = {field.name for field in fields(Arguments)}
    return Arguments(**{name: value for name, value in options.items() if name in names})
