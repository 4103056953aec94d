"""`flexinfer chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.announce import announce
from flexinfer.cli.messages import messages
from flexinfer.cli.models import local_model
from flexinfer.cli.options import (
    Sampling,
    engine_options,
    llama_options,
    plan_arguments,
    sampling_options,
)
from flexinfer.errors import RequestError
from flexinfer.sizes import format_size

if TYPE_CHECKING:
    from flexinfer.chat.conversation import Conversation
    from flexinfer.llama import Llama

_HELP = """\
/clear   forget the conversation        /speed   switch the line of speed on or off
/save    write the session now          /exit    leave (as Ctrl-D does)
A line that ends in \\ goes on; a line of three quotes (\"\"\") begins and ends a longer text.
Ctrl-C stops an answer."""


@click.command(name="chat")
@click.argument("model")
@click.option("--system", help="The system message.")
@click.option(
    "--session",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Resume from this file if it is there, and save to it.",
)
@click.option("-n", "limit", type=click.IntRange(1), help="At most so many tokens an answer.")
@engine_options
@sampling_options
@click.option("--speed/--no-speed", default=True, help="A line of speed after each answer.")
@click.option("-v", "--verbose", is_flag=True, help="llama.cpp's messages.")
def command(
    model: str,
    system: str | None,
    session: Path | None,
    limit: int | None,
    ctx: int | None,
    ubatch: int | None,
    sampling: Sampling,
    speed: bool,
    verbose: bool,
    **engine: Any,
) -> None:
    """Talk with MODEL, a GGUF file or hf:user/repo[@revision][:quant|:file].

    Earlier turns are not computed again.
    """
    catalogue = local_model(model, engine)
    from flexinfer.chat.conversation import Conversation
    from flexinfer.foretell import chat_sizes
    from flexinfer.llama import Llama

    with Llama(
        catalogue.paths[0],
        catalogue=catalogue,
        **asdict(chat_sizes(catalogue, plan_arguments(engine), ctx, ubatch)),
        seed=sampling.seed,
        verbose=verbose,
        **llama_options(**engine),
    ) as llm:
        announce(llm, engine["memory"], verbose)
        talk = Conversation(llm, system, **sampling.arguments)
        if not talk.has_template:
            click.echo("the model has no chat template: turns are plain text", err=True)
        chat = _Chat(llm, talk, session, speed, sampling.stop, -1 if limit is None else limit)
        chat.resume()
        chat.run()


class _Chat:
    """The loop of reading and answering."""

    def __init__(
        self,
        llm: Llama,
        talk: Conversation,
        session: Path | None,
        speed: bool,
        stops: tuple[str, ...],
        limit: int,
    ) -> None:
        self._llm = llm
        self._talk = talk
        self._session = session
        self._speed = speed
        self._stops = stops
        self._limit = limit
        self._commands: dict[str, Callable[[], None]] = {
            "/clear": talk.clear,
            "/speed": self._switch_speed,
            "/save": self._save,
            "/help": _help,
        }

    def resume(self) -> None:
        if self._session is None or not self._session.exists():
            return
        from flexinfer.chat.session import load_session

        session = load_session(self._llm, self._session)
        self._talk.resume(session)
        how = "" if session.cached else "; their cache does not fit and is computed again"
        click.echo(f"resumed {len(session.messages)} messages{how}", err=True)

    def run(self) -> None:
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history for input())

            click.echo("/help lists commands, Ctrl-D leaves", err=True)
        for text in messages():
            if text == "/exit":
                break
            action = self._commands.get(text)
            if action is not None:
                action()
            elif text.startswith("/") and " " not in text:
                click.echo(f"there is no command {text}; /help lists them", err=True)
            else:
                self._answer(text)
        if self._session is not None:
            self._save()

    def _answer(self, text: str) -> None:
        before, began, dropped = self._llm.stats, time.monotonic(), self._talk.dropped
        first: float | None = None
        known = self._llm.n_tokens
        try:
            for piece in self._talk.ask(text, self._stops, self._limit):
                first = first or time.monotonic()
                click.echo(piece, nl=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            click.echo(" [stopped]", err=True, nl=False)
        except RequestError as error:
            click.echo(f"{error}", err=True)
            return
        click.echo()
        if self._talk.dropped > dropped:
            click.echo("the context is full: the oldest turns were forgotten", err=True)
        if self._speed:
            click.echo(self._speed_line(before, began, first, known), err=True)

    def _speed_line(self, before: Any, began: float, first: float | None, known: int) -> str:
        done = self._llm.stats - before
        now = time.monotonic()
        computed = max(self._llm.n_tokens - known, 0)
        wait = f"first after {first - began:.1f} s, " if first else ""
        rate = (done.passes - 1) / (now - first) if first and now > first else 0.0
        pace = f"then {rate:.2f} tokens/s, " if done.passes > 1 else ""
        read = format_size(done.read_bytes / max(done.passes, 1))
        return f"[{computed} tokens computed, {wait}{pace}{read} read a pass]"

    def _switch_speed(self) -> None:
        self._speed = not self._speed

    def _save(self) -> None:
        if self._session is None:
            click.echo("there is no session file; start with --session FILE", err=True)
            return
        from flexinfer.chat.session import save_session

        save_session(self._llm, self._session, self._talk.session)


def _help() -> None:
    click.echo(_HELP, err=True)
