"""Tokens of a text from a model's vocabulary alone, without its weights."""

from __future__ import annotations

import llama_cpp
import llama_cpp._internals as internals

from flexinfer.errors import ModelFileError


def tokenize(path: str, text: str, *, verbose: bool = False) -> list[int]:
    """Token ids of `text`, with the beginning-of-text token where the model wants one.

    Raises:
        ModelFileError: llama.cpp does not read the vocabulary.
    """
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    params.use_extra_bufts = False
    from llama_cpp._logger import set_verbose

    set_verbose(verbose)
    try:
        model = internals.LlamaModel(path_model=path, params=params, verbose=verbose)
    except ValueError as error:
        raise ModelFileError(
            f"{path}: llama.cpp does not read this model's vocabulary; run with -v to see why"
        ) from error
    try:
        return [int(token) for token in model.tokenize(text.encode(), True, True)]
    finally:
        model.close()
