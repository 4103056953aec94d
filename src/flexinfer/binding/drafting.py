"""Answers whose tokens are drafted: several of one in a pass, with the bits of single ones."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any, Protocol

import llama_cpp

from flexinfer.binding import private
from flexinfer.binding.calls import Calls
from flexinfer.binding.check_request import listed_tokens
from flexinfer.errors import RequestError
from flexinfer.kinds import check_whole


class Drafts(Protocol):
    """Who proposes tokens, and learns what became of them; see `speculate.drafts`."""

    def __call__(self, known: Any, /, **_: Any) -> Any:
        """Tokens that may follow the known ones."""

    def are(self, tokens: Sequence[int]) -> bool:
        """Whether these are the last chosen token and what was proposed to follow it."""

    def note_pass(self, rows: int, microseconds: int) -> None:
        """Take in what a pass took."""

    def finish(self, known: int) -> None:
        """An answer is over, after so many tokens with its prompt."""


class Drafting(Calls):
    """A model of which a pass may compute tokens before they are chosen."""

    _drafts: Drafts | None = None
    # Tokens before the one that is being chosen; None: all that are computed.
    _before: int | None = None
    # Another request computed since the last batch: its rows have no logits any more.
    _rows_gone = False

    @abstractmethod
    def _keeping_rows(self) -> AbstractContextManager[None]:
        """While entered, each row of a batch comes out as it would alone."""

    def _draft_by(self, drafts: Drafts | None) -> None:
        """Have answers be drafted so from now on; None: token by token."""
        self._drafts = self.draft_model = drafts

    def generate(
        self, tokens: Sequence[int], *arguments: Any, **options: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """As the parent's; a draft changes no token of it.

        Raises:
            RequestError: tokens are sent into an answer that is drafted.
        """
        drafts, tokens = self._drafts, listed_tokens(tokens)
        answer = super().generate(tokens, *arguments, **options)
        if drafts is None:
            yield from answer
            return
        asked = signature(llama_cpp.Llama.generate).bind(self, tokens, *arguments, **options)
        known = len(tokens) if asked.arguments.get("reset", True) else self.n_tokens + len(tokens)
        try:
            for token in answer:
                known += 1
                if (yield token) is not None:
                    raise RequestError(
                        "tokens cannot be sent into an answer that is drafted; open the model "
                        'with draft="off"'
                    )
        finally:
            answer.close()
            drafts.finish(known)
            # The last token was chosen but not computed; what is beyond was only proposed.
            if self.n_tokens >= known:
                private.forget_from(self, known - 1)

    def eval(self, tokens: Sequence[int]) -> None:
        drafts, self._rows_gone = self._drafts, False
        if drafts is None:
            super().eval(tokens)
            return
        began = time.perf_counter()
        if drafts.are(tokens):
            with self._keeping_rows():
                private.eval_rows(self, tokens)
        else:
            super().eval(tokens)
        if drafts.are(tokens) or len(tokens) == 1:
            drafts.note_pass(len(tokens), round(1e6 * (time.perf_counter() - began)))

    def sample(self, *arguments: Any, **options: Any) -> int:
        at = options.get("idx")
        if at is not None:
            check_whole("idx", at)
        if self._rows_gone and at is not None and at < self.n_tokens:
            token = int(self.input_ids[at])
            private.forget_from(self, at)
            super().eval([token])
            self._rows_gone = False
        self._before = None if at is None else at + 1
        return super().sample(*arguments, **options)

    def _known_tokens(self) -> Any:
        return private.known_tokens(self, self.n_tokens if self._before is None else self._before)

    @property
    def _drafted_by_caller(self) -> bool:
        """Whether the parent's `draft_model` is one that was handed in."""
        return self.draft_model is not None and self.draft_model is not self._drafts

    def _rows_are_gone(self) -> None:
        """Another request had the context: what is sampled next is computed again."""
        self._rows_gone = self._drafts is not None


def keeps_state(llm: llama_cpp.Llama) -> bool:
    """Whether a state takes the place of a cache, or stands beside it."""
    kinds = (llama_cpp.llama_model_is_recurrent, llama_cpp.llama_model_is_hybrid)
    return any(kind(llm.model) for kind in kinds)


def wraps(llm: llama_cpp.Llama) -> bool:
    """Whether the cache of a sliding window has room for the window alone."""
    return llama_cpp.llama_model_n_swa(llm.model) > 0 and not llm.context_params.swa_full
