"""Tokens of a text from a model's vocabulary alone, without its weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from flexinfer.binding.grammar_sampler import Survive
from flexinfer.binding.log import listen
from flexinfer.binding.metadata import read_metadata
from flexinfer.binding.private import load_vocabulary, special_text
from flexinfer.binding.text_limits import expressions, seconds_for, stack_for
from flexinfer.errors import ModelFileError
from flexinfer.memory.heap import trim_heap


def read_vocabulary(path: str, *, verbose: bool, survive: Survive) -> Any:
    """The vocabulary of a model; the caller closes it.

    Raises:
        ModelFileError: llama.cpp does not read it.
    """

    listen()

    def refused(why: str) -> ModelFileError:
        return ModelFileError(f"{path}: llama.cpp does not read this model's vocabulary, {why}")

    try:
        return load_vocabulary(path, verbose=verbose, load=lambda native: survive(native, refused))
    except ValueError as error:
        if isinstance(error, ModelFileError):
            raise
        raise refused("run with -v to see why") from error


# Makes the text of a prompt from the tokens that begin and end a text, as the vocabulary writes
# them; and says whether the first is still to be added.
Write = Callable[[str, str], tuple[str, bool]]


def tokenize(path: str, write: Write, *, verbose: bool, survive: Survive) -> list[int]:
    """Token ids of the text that `write` makes.

    The beginning-of-text token is before them where the model wants one and `write` lacks it.

    Raises:
        ModelFileError: llama.cpp does not read the vocabulary, or there is none.
        RequestError: the chat template that `write` asks refuses the messages.
    """
    model = read_vocabulary(path, verbose=verbose, survive=survive)
    # Whoever is late reads it: it is not freed then.
    free = ExitStack()
    free.callback(model.close)
    try:
        if not model.vocab_type():
            raise ModelFileError(
                f"{path}: the model has no vocabulary (tokenizer.ggml.model is no_vocab), so it "
                "cannot read a text; convert it again, with its tokenizer"
            )
        text, start = write(
            special_text(model, model.token_bos()), special_text(model, model.token_eos())
        )
        given = text.encode()
        found = survive(
            lambda: model.tokenize(given, start, True),
            lambda why: ModelFileError(
                f"{path}: llama.cpp cannot make tokens of this text, {why}; give another text or "
                "convert the model again"
            ),
            seconds=seconds_for(given),
            late=free.pop_all,
            stack=stack_for(given, expressions(model.vocab_type(), read_metadata(model))),
        )
        return [int(token) for token in found]
    finally:
        free.close()
        # The vocabulary took megabytes, which the budget would otherwise have to bear for good.
        trim_heap()
