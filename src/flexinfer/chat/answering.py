"""One answer: tokens become text until the model, a stop text or a limit ends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp

from flexinfer.binding.private import ends_answer
from flexinfer.chat.text_stream import TextStream
from flexinfer.errors import RequestError


class Answer:
    """The tokens and the text of one answer, computed while it is iterated over.

    Each step gives the text that became certain with one token, which may be none; a last one
    gives what was held back, if anything. `tokens` and `text` are what came so far, however it
    ends; the token with which a model ends its answer is not one of them.

    Args:
        llm: computes; a plain `llama_cpp.Llama` does as well.
        prompt: its tokens.
        limit: at most so many tokens; negative: as many as the context has room for.
        stops: texts that end the answer; they are not part of it.
        sampling: keyword arguments for `Llama.generate`.

    Raises:
        RequestError: the prompt leaves no room in the context.
    """

    def __init__(
        self,
        llm: llama_cpp.Llama,
        prompt: Sequence[int],
        limit: int = -1,
        stops: Sequence[str] = (),
        **sampling: Any,
    ) -> None:
        room = llm.n_ctx() - len(prompt)
        if room <= 0:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens but the context only {llm.n_ctx()}; give a "
                "larger context (--ctx), a larger memory budget or a shorter prompt"
            )
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self._llm = llm
        self._limit = min(room, limit) if limit >= 0 else room
        self._stream = TextStream(stops)
        self._sampling = sampling

    def __repr__(self) -> str:
        return f"<Answer {len(self.tokens)} of at most {self._limit} tokens>"

    @property
    def text(self) -> str:
        """What was given so far."""
        return self._stream.text

    def __iter__(self) -> Iterator[str]:
        for token in self._generated():
            before = self.prompt + self.tokens
            self.tokens.append(token)
            yield self._stream.feed(self._llm.detokenize([token], prev_tokens=before))
            if self._stream.stopped:
                return
        held_back = self._stream.feed(b"", final=True)
        if held_back:
            yield held_back

    def _generated(self) -> Iterator[int]:
        """Tokens up to the limit or the one that ends the answer; none is computed beyond."""
        if not self._limit:
            return
        for count, token in enumerate(self._llm.generate(self.prompt, **self._sampling), 1):
            if ends_answer(self._llm, token):
                return
            yield int(token)
            if count >= self._limit:
                return
