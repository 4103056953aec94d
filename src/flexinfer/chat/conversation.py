"""A conversation with a model: turns become tokens such that the KV cache of earlier ones is kept.

The parent class reuses the longest common prefix of what it computed before. Text that a model
made does not always become the same tokens again, so the tokens themselves are the history, and
only the text that a turn adds is made into tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from flexinfer.binding.private import token_text
from flexinfer.chat.answering import Answer
from flexinfer.chat.session import Session
from flexinfer.chat.writing import Message, Writing
from flexinfer.errors import RequestError

if TYPE_CHECKING:
    from flexinfer.llama import Llama

# Left for an answer before old turns have to go.
_ROOM = 128


class Conversation:
    """Messages and their tokens.

    Args:
        llm: computes; its context holds the tokens of this conversation alone.
        system: the first message, which is never dropped.
        sampling: keyword arguments for `Llama.generate`.
    """

    def __init__(self, llm: Llama, system: str | None = None, **sampling: Any) -> None:
        self.messages: list[Message] = []
        self.dropped = 0
        self._llm = llm
        self._sampling = sampling
        # A model without a vocabulary is refused before the first word.
        llm.tokenize(b"", add_bos=False)
        bos, eos = token_text(llm, llm.token_bos()), token_text(llm, llm.token_eos())
        self._writing = Writing(llm.metadata, bos, eos)
        self._text = ""
        self._ids: list[int] = []
        if system:
            self.messages.append({"role": "system", "content": system})

    @property
    def has_template(self) -> bool:
        """Whether the model brings a chat template; without one, turns are lines of plain text."""
        return self._writing.has_template

    @property
    def session(self) -> Session:
        """Messages and tokens so far, to be saved."""
        return Session(list(self.messages), list(self._ids))

    def resume(self, session: Session) -> None:
        """Go on with a session, whose cache may be in the context already."""
        self.messages = list(session.messages)
        self._ids = list(session.tokens)
        self._text = ""
        if self._ids and len(self.messages) > 1:
            answer = self.messages[-1]["content"]
            self._text = self._writing.write(self.messages[:-1]) + answer

    def clear(self) -> None:
        """Forget all turns but the system message."""
        self.messages = [m for m in self.messages[:1] if m["role"] == "system"]
        self._text, self._ids = "", []

    def ask(
        self, content: str, stops: Sequence[str] = (), limit: int = -1
    ) -> Generator[str, None, None]:
        """Text of the answer as it comes.

        Closing the iterator, or an exception such as Ctrl-C in it, ends the answer; what came of
        it stays part of the conversation, and where nothing came, the message does not either.

        Raises:
            RequestError: the message does not fit the context.
        """
        before = list(self.messages), list(self._ids), self._text, self.dropped
        answer: Answer | None = None
        try:
            self.messages.append({"role": "user", "content": content})
            prompt = self._prompt()
            self._llm.check_prompt(prompt)
            answer = Answer(self._llm, prompt, limit, stops, **self._sampling)
            yield from filter(None, answer)
        except BaseException:
            if answer is not None and answer.tokens:
                self._add(answer)
            else:
                # Asked again, it is the same question.
                self.messages, self._ids, self._text, self.dropped = before
            raise
        self._add(answer)

    def _add(self, answer: Answer) -> None:
        self.messages.append({"role": "assistant", "content": answer.text})
        self._ids = answer.prompt + answer.tokens
        self._text += answer.text

    def _prompt(self) -> list[int]:
        """Tokens of all messages; the oldest turns are dropped when they do not fit."""
        size = self._llm.n_ctx()
        ids = self._encode()
        while len(ids) > size - min(_ROOM, size // 4):
            if not self._drop_turn():
                raise RequestError(
                    f"the message has {len(ids)} tokens but the context only {size}; "
                    "give a larger --ctx or a shorter message"
                )
            self._text, self._ids = "", []
            ids = self._encode()
        return ids

    def _encode(self) -> list[int]:
        text = self._writing.write(self.messages)
        whole = self._tokenize(text, start=True)
        added = text[len(self._text) :]
        kept = bool(self._ids) and text.startswith(self._text)
        if kept and whole[: len(self._ids)] != self._ids:
            whole = self._ids + self._tokenize(added, start=False)
        self._text = text
        return whole

    def _tokenize(self, text: str, *, start: bool) -> list[int]:
        add_bos = start and not self._writing.has_bos(text)
        ids = self._llm.tokenize(text.encode(), add_bos=add_bos, special=True)
        return [int(token) for token in ids]

    def _drop_turn(self) -> bool:
        first = 1 if self.messages[0]["role"] == "system" else 0
        if len(self.messages) - first < 3:
            return False
        del self.messages[first : first + 2]
        self.dropped += 1
        return True
