"""`flexinfer chat`: a conversation in the terminal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.announce import announce
from flexinfer.cli.drafts import draft_option
from flexinfer.cli.inputs import Extras, extra_options
from flexinfer.cli.models import local_model
from flexinfer.cli.numbers import TOKENS
from flexinfer.cli.options import (
    Sampling,
    Words,
    engine_options,
    llama_options,
    plan_arguments,
    sampling_options,
)
from flexinfer.cli.streams import log
from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.kernels import Kernels

if TYPE_CHECKING:
    from flexinfer.chat.session import SessionFile
    from flexinfer.llama import Llama


@click.command(name="chat")
@click.argument("model")
@click.option("--system", type=Words(), help="The system message.")
@click.option(
    "--session",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Resume from this file if it is there, and save to it after each answer.",
)
@click.option("-n", "limit", type=TOKENS, help="At most so many tokens an answer.")
@extra_options
@engine_options
@draft_option
@sampling_options
@click.option("--speed/--no-speed", default=True, help="A line of speed after each answer.")
@click.option("-v", "--verbose", is_flag=True, help="llama.cpp's messages and the plan's reasons.")
def command(
    model: str,
    system: str | None,
    session: Path | None,
    limit: int | None,
    extras: Extras,
    draft: str,
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
    from flexinfer.cli.sizes import chat_sizes
    from flexinfer.llama import Llama

    kept = _session(session)
    choosing = {**sampling.arguments, **extras.constraint()}
    catalogue = local_model(model, engine)
    engine["repack"] = _repack(kept, catalogue, engine["repack"])
    with Llama(
        catalogue.paths[0],
        catalogue=catalogue,
        **asdict(chat_sizes(catalogue, plan_arguments(engine), ctx, ubatch)),
        seed=sampling.seed,
        draft=draft,
        verbose=verbose,
        **llama_options(**engine),
        **extras.model_options(),
    ) as llm:
        announce(llm, engine["memory"], sampling.seed, verbose)
        most = -1 if limit is None else limit
        _talk(llm, system, kept, choosing, speed=speed, stops=sampling.stop, limit=most)


def _session(path: Path | None) -> SessionFile | None:
    """The file that keeps the conversation, once it can be written."""
    from flexinfer.chat.session import SessionFile

    if path is None:
        return None
    kept = SessionFile(path)
    kept.check()
    return kept


def _talk(
    llm: Llama,
    system: str | None,
    kept: SessionFile | None,
    choosing: dict[str, Any],
    **how: Any,
) -> None:
    from flexinfer.chat.conversation import Conversation
    from flexinfer.cli.talking import Talking

    talk = Conversation(llm, system, **choosing)
    if not talk.has_template:
        log("the model has no chat template: turns are plain text")
    talking = Talking(llm, talk, kept, **how)
    talking.resume()
    talking.run()


def _repack(kept: SessionFile | None, catalogue: Catalogue, asked: bool | None) -> bool | None:
    """Whether to pack: as when the session was computed, whose cache has those bits."""
    known = kept.kernels(catalogue.name, catalogue.sizes) if kept is not None else None
    if kept is None or known is None:
        return asked
    packed = known == Kernels.PACKED
    if asked is not None and asked is not packed:
        option = "--repack" if asked else "--no-repack"
        raise RequestError(
            f"{kept.path} was computed with {known} kernels, whose bits {option} does not give; "
            f"leave out {option} or give another --session"
        )
    return packed
