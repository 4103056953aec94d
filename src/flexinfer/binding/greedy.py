"""A model that writes the likeliest token after what it was given, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp

from flexinfer.binding import private


class Greedy:
    """What a draft asks of a model; see `speculate.by_model.Writer`."""

    def __init__(self, llm: llama_cpp.Llama) -> None:
        self._llm = llm

    @property
    def room(self) -> int:
        return int(self._llm.n_ctx())

    @property
    def known(self) -> Any:
        return private.known_tokens(self._llm, self._llm.n_tokens).tolist()

    def forget_from(self, count: int) -> None:
        if count < self._llm.n_tokens:
            private.forget_from(self._llm, count)

    def compute(self, tokens: Sequence[int]) -> int:
        self._llm.eval(tokens)
        return int(private.last_logits(self._llm).argmax())
