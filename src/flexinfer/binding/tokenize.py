"""Tokens of a text from a model's vocabulary alone, without its weights."""

from __future__ import annotations

from flexinfer.binding.private import load_vocabulary
from flexinfer.errors import ModelFileError
from flexinfer.memory.heap import trim_heap


def tokenize(path: str, text: str, *, verbose: bool = False) -> list[int]:
    """Token ids of `text`, with the beginning-of-text token where the model wants one.

    Raises:
        ModelFileError: llama.cpp does not read the vocabulary.
    """
    try:
        model = load_vocabulary(path, verbose=verbose)
    except ValueError as error:
        raise ModelFileError(
            f"{path}: llama.cpp does not read this model's vocabulary; run with -v to see why"
        ) from error
    try:
        return [int(token) for token in model.tokenize(text.encode(), True, True)]
    finally:
        model.close()
        # The vocabulary took megabytes, which the budget would otherwise have to bear for good.
        trim_heap()
