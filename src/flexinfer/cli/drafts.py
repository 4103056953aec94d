"""The option `--draft`: a way of drafting, or the file of a model that does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from flexinfer.planning.drafted import NAMES, OFF

Command = TypeVar("Command", bound=Callable[..., Any])


class Draft(click.ParamType[str]):
    """A way of drafting, or the file of a model that does."""

    name = "way|file"

    def __init__(self, *more: str) -> None:
        self._known = (*NAMES, *more)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        draft, known = str(value), ", ".join(self._known)
        if draft not in self._known and not draft.endswith(".gguf") and not os.path.exists(draft):
            self.fail(f"{value!r} is none of {known}, and no GGUF file", param, ctx)
        return draft


def served_draft_option(command: Command) -> Command:
    """As `draft_option`, for llama.cpp's own ways of drafting."""
    return click.option(
        "--draft",
        type=Draft("mtp"),
        default=OFF,
        show_default=True,
        help="Draft tokens and compute several of each answer a pass, from what was written before "
        "(ngram), by the model's own trained head (mtp) or by a smaller model, a GGUF file.",
    )(command)


def draft_option(command: Command) -> Command:
    """Whether tokens are drafted, and from what."""
    return click.option(
        "--draft",
        type=Draft(),
        default=OFF,
        show_default=True,
        help="Draft tokens and compute several a pass, from what was written before (ngram) or by "
        "a smaller model, a GGUF file; the answer stays the same.",
    )(command)
