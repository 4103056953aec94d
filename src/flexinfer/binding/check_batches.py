"""What one batch may hold, and that an encoder runs before its decoder.

llama.cpp ends the process for a batch that a model cannot take (``llama_context::encode`` and
``decode``, the cross attention of ``llama-graph.cpp``); here it is refused before it gets there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp

from flexinfer.errors import RequestError

# Values of `llama_context_params.attention_type`.
_CAUSAL, _NON_CAUSAL = 0, 1


def answer_start(model: Any) -> int:
    """The token an answer begins with where a prompt is encoded; negative: the model names none."""
    start = int(llama_cpp.llama_model_decoder_start_token(model))
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    return start if start >= 0 else int(llama_cpp.llama_vocab_bos(vocabulary))


class Batches:
    """Checks what goes to `encode` and `decode` of one context.

    Args:
        name: the model's, for messages.
        model, context: handles of llama.cpp.
        causal: whether a token sees only those before it, by the model's metadata.
        attention_type: the context's wish, which comes before the metadata.
        asked: tokens of the context that was asked for.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        context: Any,
        *,
        causal: bool,
        attention_type: int,
        asked: int,
    ) -> None:
        self._name = name
        self._context = int(llama_cpp.llama_n_ctx(context))
        self._asked = asked
        self._ubatch = int(llama_cpp.llama_n_ubatch(context))
        self._encodes = bool(llama_cpp.llama_model_has_encoder(model))
        self._remembers = llama_cpp.llama_get_memory(context) is not None
        self._decodes = bool(llama_cpp.llama_model_has_decoder(model))
        self._diffusion = bool(llama_cpp.llama_model_is_diffusion(model))
        explicit = {_CAUSAL: True, _NON_CAUSAL: False}
        self._causal = explicit.get(attention_type, causal)
        self._encoded = False
        self._start = answer_start(model)

    @property
    def encodes_prompts(self) -> bool:
        """Whether an encoder reads the prompt and a decoder writes the answer."""
        return self._encodes and self._decodes

    def start_after(self, prompt: Sequence[int]) -> int:
        """The token that the answer to a prompt begins with, once the prompt was encoded.

        Raises:
            RequestError: the model names none, or the prompt is empty or too large for one batch.
        """
        if self._start < 0:
            raise RequestError(
                f"{self._name} does not say which token an answer begins with "
                "(decoder_start_token_id); convert the model again"
            )
        if not prompt:
            raise RequestError(f"the prompt is empty; {self._name} encodes at least one token")
        self.check_size(len(prompt))
        return self._start

    def check_logprobs(self) -> None:
        """Raise `RequestError` where rows of logits are not those of prompt and answer."""
        if self.encodes_prompts:
            raise RequestError(
                f"{self._name} encodes its prompt, which has no logits; leave logprobs out"
            )

    def check_writes(self) -> None:
        """Raise `RequestError` unless the model writes text token by token."""
        if self._diffusion:
            raise RequestError(
                f"{self._name} writes by diffusion, not token by token; take another model"
            )
        if not (self._decodes and self._remembers):
            raise RequestError(
                f"{self._name} writes no text, it computes embeddings; open it with embedding=True "
                "and call embed()"
            )

    def encoding(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """`call`, which encodes a batch, with the check before it."""

        def encode(batch: Any) -> None:
            self.check_size(batch.n_tokens())
            call(batch)
            self._encoded = True

        return encode

    def decoding(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """`call`, which decodes a batch, with the check before it."""

        def decode(batch: Any) -> None:
            if self.encodes_prompts and not self._encoded:
                raise RequestError(
                    f"{self._name} has an encoder, which must read the prompt first; call "
                    "generate()"
                )
            if not (self._causal and self._remembers):
                self.check_size(batch.n_tokens())
            self.check_room(batch.n_tokens())
            call(batch)

        return decode

    def check_room(self, tokens: int, known: int = 0) -> None:
        """Raise `RequestError` when so many tokens more do not fit the context.

        Args:
            known: tokens that are in it already.
        """
        if known + tokens <= self._context:
            return
        cut = self._context < self._asked
        raise RequestError(
            f"{tokens} tokens are to be computed"
            + (f" after {known} that are known" if known else "")
            + f", but the context holds {self._context}"
            + (
                f" of the {self._asked} asked for, as the budget has no room for more"
                if cut
                else ""
            )
            + ("; give more memory" if cut else "; give a larger n_ctx")
            + " or a shorter text"
        )

    def check_size(self, tokens: int) -> None:
        """Raise `RequestError` when so many tokens do not fit in one micro-batch.

        Where each token sees all others, a batch cannot be cut into several.
        """
        if tokens > self._ubatch:
            raise RequestError(
                f"{self._name} reads {tokens} tokens at once, as each sees all others, but a "
                f"micro-batch holds {self._ubatch}; shorten the text or open the model with "
                f"n_ubatch={tokens} and n_batch as large (--ubatch {tokens})"
            )
