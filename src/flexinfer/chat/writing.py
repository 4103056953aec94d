"""How a model wants a chat written: by its template, or where it has none as plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flexinfer.binding.chat_template import ChatTemplate

Message = dict[str, str]


class Writing:
    """Messages become a text.

    Args:
        metadata: the model's.
        bos, eos: the tokens that begin and end a text, as the vocabulary writes them.
    """

    def __init__(self, metadata: Mapping[str, Any], bos: str, eos: str) -> None:
        source = metadata.get("tokenizer.chat_template")
        self._template = ChatTemplate(source, eos, bos) if source else None
        self._bos = bos

    @property
    def has_template(self) -> bool:
        """Whether the model brings a chat template."""
        return self._template is not None

    def write(self, messages: Sequence[Message], answer: bool = True) -> str:
        """The text of `messages`; with `answer` it ends where the model is to answer.

        Raises:
            RequestError: the template does not parse, refuses them, or takes too much.
        """
        if self._template is None:
            return "".join(message["content"] + "\n" for message in messages)
        return self._template.render(list(messages), answer=answer)

    def has_bos(self, text: str) -> bool:
        """Whether `text` has the token that begins it written out already."""
        return bool(self._bos) and text.startswith(self._bos)
