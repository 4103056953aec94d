"""Texts of requests become tokens: those whose longest word no stack holds are refused."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as binding

from flexinfer.binding.text_limits import SAFE, expressions, stack_for
from flexinfer.errors import RequestError
from flexinfer.native.device.device import device
from flexinfer.serve.library import own_tokenize

_NAME_BYTES = 64


class Texts:
    """`llama_tokenize` for the threads of a server."""

    def __init__(self) -> None:
        self._native = own_tokenize()
        # The name of the regular expressions, by the address of the vocabulary.
        self._names: dict[int, str] = {}

    def note(self, model: int) -> None:
        """A model was loaded, whose vocabulary will be used."""
        vocabulary = int(binding.llama_model_get_vocab(model) or 0)
        cell = ctypes.create_string_buffer(_NAME_BYTES)
        found = binding.llama_model_meta_val_str(model, b"tokenizer.ggml.pre", cell, len(cell))
        metadata = {"tokenizer.ggml.pre": cell.value.decode("utf-8", "replace")}
        self._names[vocabulary] = expressions(
            binding.llama_vocab_type(vocabulary), metadata if found >= 0 else {}
        )

    def tokenize(self, vocabulary: int, text: int, length: int, *rest: int) -> int:
        """As ``llama_tokenize``.

        Raises:
            RequestError: the text would end the process.
        """
        if length <= SAFE:
            return int(self._native(vocabulary, text, length, *rest))
        return device().survive(
            lambda: int(self._native(vocabulary, text, length, *rest)),
            lambda why: RequestError(
                f"llama.cpp cannot make tokens of this text, {why}; send another one"
            ),
            stack=self._stack_for(vocabulary, text, length),
        )

    def stack_for(self, text: int, length: int) -> int:
        """The stack in bytes that a text takes beside a projector; 0 for a usual one.

        Raises:
            RequestError: no stack holds it.
        """
        # What reads images belongs to the model that answers, which is loaded first.
        return self._stack_for(next(iter(self._names), 0), text, length)

    def _stack_for(self, vocabulary: int, text: int, length: int) -> int:
        if length <= SAFE:
            return 0
        return stack_for(ctypes.string_at(text, length), self._names.get(vocabulary, ""))
