"""Sources of drafts that are right, wrong, or anything, for a text that is known."""

from __future__ import annotations

import random
from collections.abc import Sequence

from flexinfer import Llama
from flexinfer.planning.many import RowTimes
from flexinfer.speculate.drafts import Drafts
from flexinfer.speculate.policy import PassTimes, Policy


class Told:
    """Drafts from the text that will come; each token is right with the given chance."""

    def __init__(self, text: Sequence[int], right: float, vocabulary: int, seed: int = 1) -> None:
        self._text = list(text)
        self._right = right
        self._vocabulary = vocabulary
        self._random = random.Random(seed)

    token_us = 0

    def draft(self, known: Sequence[int], most: int) -> list[int]:
        rest = self._text[len(known) : len(known) + most]
        return [self._token(token) for token in rest]

    def _token(self, right: int) -> int:
        if self._random.random() < self._right:
            return right
        return (right + self._random.randrange(1, self._vocabulary)) % self._vocabulary


class AlwaysSome(Policy):
    """Draws how many tokens are drafted, whatever that brings."""

    def __init__(self, most: int, seed: int = 1) -> None:
        super().__init__(PassTimes(1, RowTimes(((1, 1e-6),))), most)
        self._draw = random.Random(seed)

    def length(self) -> int:
        return self._draw.randrange(self._most + 1)


def draft_by_text(llm: Llama, text: Sequence[int], right: float, most: int = 15) -> Drafts:
    """Have the answers of `llm` drafted from what they will be."""
    source = Told(text, right, llm.n_vocab())
    drafts = Drafts(source, AlwaysSome(most), lambda known: llm.n_ctx() - known)
    llm._draft_by(drafts)
    return drafts
