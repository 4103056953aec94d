"""Every private name of llama-cpp-python that is touched, in one place.

Its version is pinned; where it changes, this is the module to read beside it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import llama_cpp
import llama_cpp._internals as internals
import llama_cpp.llama_chat_format as llama_chat_format
import numpy as np
from llama_cpp._logger import logger, set_verbose

from flexinfer.binding.metadata import read_metadata

Compute = Callable[[Any], None]
Wrap = Callable[[Compute], Compute]


def ends_answer(llm: llama_cpp.Llama, token: int) -> bool:
    """Whether `token` is one of those that end a generation: of a text, a turn, a message."""
    return bool(llama_cpp.llama_vocab_is_eog(llm._model.vocab, token))


def wants_log() -> bool:
    """Whether somebody asked for messages: `verbose` has the binding log from DEBUG or ERROR on."""
    return bool(logger.level < logging.ERROR)


def token_text(llm: llama_cpp.Llama, token: int) -> str:
    """A token as the vocabulary writes it, special ones too; "" for -1, which is none."""
    return special_text(llm._model, token)


def special_text(model: internals.LlamaModel, token: int) -> str:
    """As `token_text`, of a vocabulary alone."""
    return str(model.token_get_text(token)) if token != -1 else ""


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


def compute_rows(llm: llama_cpp.Llama, tokens: Sequence[int]) -> Any:
    """Compute tokens after the known ones in one batch, by as many threads as a single one.

    Returns the logits, [row, vocabulary], until the next batch; the tokens are not known yet.
    """
    llm._ctx.kv_cache_seq_rm(-1, llm.n_tokens, -1)
    single, many = llama_cpp.llama_n_threads(llm.ctx), llama_cpp.llama_n_threads_batch(llm.ctx)
    llm._batch.set_batch(batch=tokens, n_past=llm.n_tokens, logits_all=True)
    llama_cpp.llama_set_n_threads(llm.ctx, single, single)
    try:
        llm._ctx.decode(llm._batch)
    finally:
        llama_cpp.llama_set_n_threads(llm.ctx, single, many)
    return np.ctypeslib.as_array(llm._ctx.get_logits(), shape=(len(tokens), llm.n_vocab()))


def eval_rows(llm: llama_cpp.Llama, tokens: Sequence[int]) -> None:
    """As the class's `eval`, in one batch whose rows can all be sampled from."""
    logits, first = compute_rows(llm, tokens), llm.n_tokens
    llm.input_ids[first : first + len(tokens)] = tokens
    if llm._logits_all:
        llm.scores[first : first + len(tokens)] = logits
    llm.n_tokens += len(tokens)
    llm._requires_eval = False


def last_logits(llm: llama_cpp.Llama) -> Any:
    """The logits of the token that was computed last, until the next batch."""
    return np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),))


def forget_from(llm: llama_cpp.Llama, count: int) -> None:
    """Know only the first `count` tokens any more."""
    llm._ctx.kv_cache_seq_rm(-1, count, -1)
    _know(llm, count)


def _know(llm: llama_cpp.Llama, count: int) -> None:
    llm.n_tokens = count
    # The logits are not those of the last token: the next request computes it again.
    llm._requires_eval = True


def wrap_computing(llm: llama_cpp.Llama, decode: Wrap, encode: Wrap) -> None:
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
    _know(llm, len(tokens))
    if seed is not None:
        llm._seed = seed


def load_image_projector(handler: Any, llm: llama_cpp.Llama) -> None:
    """Have a chat handler load its projector now; it does once."""
    handler._init_mtmd_context(llm)


def begin(llm: llama_cpp.Llama) -> None:
    """Have the class be one that can be closed, before its constructor comes to that."""
    llm._stack = ExitStack()


@contextmanager
def templates_by(make: Callable[..., Any]) -> Iterator[None]:
    """While entered, chat templates that this thread reads with a model are made by `make`.

    The class would compile them at once, and know no metadata at all where a byte is no UTF-8.
    """
    me, theirs = threading.get_ident(), llama_chat_format.Jinja2ChatFormatter
    strict = internals.LlamaModel.metadata

    class Formatter(theirs):  # type: ignore[misc, valid-type]
        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            mine = threading.get_ident() == me
            return (make if mine else theirs)(*arguments, **options)

    llama_chat_format.Jinja2ChatFormatter = Formatter
    internals.LlamaModel.metadata = read_metadata
    try:
        yield
    finally:
        llama_chat_format.Jinja2ChatFormatter = theirs
        internals.LlamaModel.metadata = strict


def adopt_vocabulary(llm: llama_cpp.Llama, model: internals.LlamaModel) -> None:
    """Have the class be `model` alone: a vocabulary, without a context."""
    llm._model = model
    llm._stack.callback(model.close)
    llm.tokenizer_ = llama_cpp.LlamaTokenizer(llm)
    llm.metadata = read_metadata(model)
    llm.model_path, llm.verbose = model.path_model, model.verbose
    llm.chat_format, llm.chat_handler, llm.cache = None, None, None


def at_close(llm: llama_cpp.Llama, call: Callable[[], object]) -> None:
    """Have the class make `call` when it is closed, before context and model are freed."""
    llm._stack.callback(call)


def load_vocabulary(
    path: str, *, verbose: bool, load: Callable[[Callable[[], Any]], Any]
) -> internals.LlamaModel:
    """A model's vocabulary without its weights; the caller closes it.

    `load` makes the native call. The class's constructor would redirect standard output around
    it, for good when the call never returns.

    Raises:
        ValueError: llama.cpp does not read it.
    """
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    params.use_extra_bufts = False
    set_verbose(verbose)
    handle = load(lambda: llama_cpp.llama_model_load_from_file(os.fsencode(path), params))
    if not handle:
        raise ValueError(f"no vocabulary was read from {path}")
    model = internals.LlamaModel.__new__(internals.LlamaModel)
    model.path_model, model.params, model.verbose = path, params, verbose
    model.sampler, model.custom_samplers = None, []
    model.model, model.vocab = handle, llama_cpp.llama_model_get_vocab(handle)
    model._exit_stack = ExitStack()
    model._exit_stack.callback(llama_cpp.llama_model_free, handle)
    return model


# What a chain of samplers is made of; see `sampling`.
Sampler = internals.LlamaSampler
CustomSampler = internals.CustomSampler


def vocabulary(llm: llama_cpp.Llama) -> Any:
    """The handle of the model's vocabulary."""
    return llm._model.vocab


def has_vocabulary(llm: llama_cpp.Llama) -> bool:
    """Whether the model knows texts of its tokens."""
    return bool(llama_cpp.llama_vocab_type(vocabulary(llm)) != llama_cpp.LLAMA_VOCAB_TYPE_NONE)


def known_tokens(llm: llama_cpp.Llama, count: int) -> Any:
    """The first `count` of the tokens that are computed, as an array."""
    return llm._input_ids[:count]


class Sampling:
    """What a request keeps in the class beside the context, while another one computes."""

    def __init__(self, llm: llama_cpp.Llama, *, over: bool = False) -> None:
        llm._sampler = None if over else llm._sampler
        self.kept = llm._sampler, llm._requires_eval

    def give_back(self, llm: llama_cpp.Llama) -> None:
        llm._sampler, llm._requires_eval = self.kept


def abandon(llm: llama_cpp.Llama, *, context: bool = True) -> None:
    """Have nothing freed, now or when the object goes: model and context, or the model alone."""
    owners = (llm, *(vars(llm).get(name) for name in ("_ctx", "_model", "_batch")))
    for owner in owners if context else owners[2:3]:
        for name in ("_stack", "_exit_stack"):
            if owner is not None and name in vars(owner):
                vars(owner)[name].pop_all()
    llm._sampler = None


def is_grammar(value: Any) -> bool:
    """Whether it is what `LlamaGrammar.from_string` returns."""
    return hasattr(value, "_grammar")


def grammar_text(grammar: Any) -> tuple[str, str]:
    """The text of a `LlamaGrammar` and the name of its first rule."""
    return str(grammar._grammar), str(grammar._root)
