"""Every private name of llama-cpp-python that is touched, in one place.

Its version is pinned; where it changes, this is the module to read beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import llama_cpp._internals as internals
from llama_cpp._logger import set_verbose

Compute = Callable[[Any], None]


def ends_answer(llm: llama_cpp.Llama, token: int) -> bool:
    """Whether `token` is one of those that end a generation: of a text, a turn, a message."""
    return bool(llama_cpp.llama_vocab_is_eog(llm._model.vocab, token))


def token_text(llm: llama_cpp.Llama, token: int) -> str:
    """A token as the vocabulary writes it, special ones too; "" for -1, which is none."""
    return str(llm._model.token_get_text(token)) if token != -1 else ""


def clear(llm: llama_cpp.Llama) -> None:
    """Forget what was computed, in the class and in the context."""
    llm.reset()
    llm._ctx.kv_cache_clear()


def encode(llm: llama_cpp.Llama, prompt: Sequence[int]) -> None:
    """Have the encoder read `prompt`; the decoder then begins anew."""
    # llama.cpp holds the prompt's positions against those of the answer before.
    clear(llm)
    llm._batch.set_batch(prompt, 0, True)
    llm._ctx.encode(llm._batch)


def wrap_computing(
    llm: llama_cpp.Llama,
    decode: Callable[[Compute], Compute],
    encode: Callable[[Compute], Compute],
) -> None:
    """Put `decode` and `encode` around the two calls of the context that compute a batch."""
    llm._ctx.decode = decode(llm._ctx.decode)
    llm._ctx.encode = encode(llm._ctx.encode)


def keeps_logits(llm: llama_cpp.Llama) -> bool:
    """Whether the class has the scores of all tokens, by `logits_all`."""
    return bool(llm._logits_all)


def seed(llm: llama_cpp.Llama) -> int:
    return int(llm._seed)


def take_over(llm: llama_cpp.Llama, tokens: Sequence[int], seed: int | None = None) -> None:
    """Have the class know the tokens that a restored cache holds."""
    llm.input_ids[: len(tokens)] = tokens
    llm.n_tokens = len(tokens)
    # The logits are not those of the last token: the next request computes it again.
    llm._requires_eval = True
    if seed is not None:
        llm._seed = seed


def load_image_projector(handler: Any, llm: llama_cpp.Llama) -> None:
    """Have a chat handler load its projector now; it does once."""
    handler._init_mtmd_context(llm)


def load_vocabulary(path: str, *, verbose: bool) -> internals.LlamaModel:
    """A model's vocabulary without its weights; the caller closes it.

    Raises:
        ValueError: llama.cpp does not read it.
    """
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    params.use_extra_bufts = False
    set_verbose(verbose)
    return internals.LlamaModel(path_model=path, params=params, verbose=verbose)
