"""What is asked of an open model: prompts, samples, texts, each checked before it is computed."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from inspect import signature
from typing import Any, TypeVar

import llama_cpp
from llama_cpp.llama_chat_format import LlamaChatCompletionHandlerNotFoundException

from flexinfer.binding import private
from flexinfer.binding.check_batches import Batches
from flexinfer.binding.check_chat import check_chat
from flexinfer.binding.check_request import (
    check_completion,
    check_sampling,
    check_text,
    check_tokens,
    listed_tokens,
)
from flexinfer.binding.grammar_sampler import Survive
from flexinfer.binding.handler_templates import template_of_stranger
from flexinfer.binding.sampling import Chain, Processors, chain
from flexinfer.binding.saving import Saving
from flexinfer.binding.text_limits import expressions, seconds_for, stack_for
from flexinfer.errors import RequestError
from flexinfer.kinds import check_whole
from flexinfer.text import shown_value

Own = TypeVar("Own", bound="Calls")
_CACHE = ("__getitem__", "__setitem__", "__contains__")
# What the parent says of a prompt that leaves no room.
_TOO_MANY = re.compile(r"Requested tokens \((\d+)\) exceed context window")


class Calls(Saving):
    """The parent's methods that compute, refused where llama.cpp would end the process."""

    _batches: Batches
    # Makes a native call that may abort; see `sampling`.
    _survive: Survive

    @property
    @abstractmethod
    def _is_idle(self) -> bool:
        """Whether no answer has the context."""

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self, tokens: Sequence[int], *arguments: Any, **options: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Tokens after a prompt, as the parent's; a model with an encoder reads it there first.

        Raises:
            RequestError: the model writes no text, or its encoder cannot take the prompt at once.
        """
        tokens = listed_tokens(tokens)
        names = signature(llama_cpp.Llama.generate)
        check_sampling(names.bind(self, tokens, *arguments, **options).arguments)
        self._batches.check_writes()
        if self._batches.encodes_prompts:
            check_tokens(tokens, self.n_vocab())
            start = self._batches.start_after(tokens)
            private.encode(self, tokens)
            tokens = [start]
        if not tokens and not self.n_tokens:
            raise RequestError("the prompt is empty; an answer begins after at least one token")
        yield from super().generate(tokens, *arguments, **options)

    def create_completion(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's; a model with an encoder gives no logprobs.

        Raises:
            RequestError: what in the request cannot be served.
        """
        names = signature(llama_cpp.Llama.create_completion)
        asked = names.bind(self, *arguments, **options).arguments
        check_completion(asked, self.n_vocab())
        if asked.get("logprobs") is not None:
            self._batches.check_logprobs()
        if asked.get("logits_processor") is not None:
            # The parent would add a bias to the caller's own list, and then use none of them.
            asked["logits_processor"] = Processors(asked["logits_processor"])
        del asked["self"]
        return super().create_completion(**asked)

    def _create_completion(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        try:
            yield from super()._create_completion(*arguments, **options)
        except ValueError as error:
            found = _TOO_MANY.search(str(error))
            if found is not None:
                # One more, as the answer has at least one.
                self._batches.check_room(int(found[1]) + 1)
            raise

    def create_chat_completion(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's.

        Raises:
            RequestError: there is no such chat format, its template refuses the messages, an
                argument has another form, or a schema is too large.
        """
        names = signature(llama_cpp.Llama.create_chat_completion)
        asked = names.bind(self, *arguments, **options).arguments
        check_chat(asked, self.n_vocab())
        try:
            with template_of_stranger(self.metadata.get("tokenizer.chat_template")):
                return super().create_chat_completion(*arguments, **options)
        except LlamaChatCompletionHandlerNotFoundException as error:
            raise RequestError(f"chat_format={self.chat_format!r} is not known: {error}") from error

    def embed(self, input: Any, *arguments: Any, **options: Any) -> Any:
        """As the parent's.

        Raises:
            RequestError: there is nothing to embed, or the model gives scores instead of vectors.
        """
        texts = [input] if isinstance(input, str) else input
        if not isinstance(texts, (list, tuple)) or not texts:
            raise RequestError("there is nothing to embed; give a text or a list of texts")
        for text in texts:
            check_text("the text to embed", text)
        if self.pooling_type() == llama_cpp.LLAMA_POOLING_TYPE_RANK:
            raise RequestError(
                "the context is opened with pooling_type rank, which gives scores and no vectors; "
                "take another pooling_type"
            )
        return super().embed(input, *arguments, **options)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """As the parent's.

        Raises:
            RequestError: the model's vocabulary cannot do it, or not in time.
        """
        if not isinstance(text, bytes):
            raise RequestError(f"tokenize takes bytes, not {type(text).__name__}; encode the text")
        self._check_vocabulary()
        found = self._survive(
            lambda: super(Calls, self).tokenize(text, add_bos, special),
            lambda condition: RequestError(
                f"llama.cpp cannot make tokens of this text, {condition}; give another text or "
                "convert the model again"
            ),
            seconds=seconds_for(text),
            stack=stack_for(text, self._expressions()),
        )
        return [int(token) for token in found]

    def detokenize(
        self,
        tokens: list[int],
        prev_tokens: list[int] | None = None,
        special: bool = False,
    ) -> bytes:
        """As the parent's.

        Raises:
            RequestError: the model has no such token.
        """
        check_tokens(tokens, self.n_vocab())
        self._check_vocabulary()
        return bytes(super().detokenize(tokens, prev_tokens, special))

    def _expressions(self) -> str:
        return expressions(llama_cpp.llama_vocab_type(private.vocabulary(self)), self.metadata)

    def _check_vocabulary(self) -> None:
        if not private.has_vocabulary(self):
            raise RequestError(
                "the model has no vocabulary (tokenizer.ggml.model is no_vocab), so there are no "
                "tokens of texts; give tokens, or convert the model again"
            )

    def _init_sampler(self, **options: Any) -> Chain:
        names = signature(super()._init_sampler)
        asked = names.bind(**options)
        asked.apply_defaults()
        known = self._known_tokens
        return chain(self, asked.arguments, private.seed(self), self._survive, known)

    def _known_tokens(self) -> Any:
        """Those before the token that is being chosen."""
        return private.known_tokens(self, self.n_tokens)

    @property
    def encodes_prompts(self) -> bool:
        """Whether an encoder reads the prompt before a decoder writes the answer."""
        return self._batches.encodes_prompts

    def check_prompt(self, tokens: Sequence[int]) -> None:
        """Raise `RequestError` for a prompt that `generate` would refuse."""
        check_tokens(tokens, self.n_vocab())
        self._batches.check_writes()
        if self._batches.encodes_prompts:
            self._batches.start_after(tokens)

    def set_seed(self, seed: int) -> None:
        """As the parent's.

        Raises:
            RequestError: it is no whole number.
        """
        check_whole("seed", seed)
        # The parent draws further seeds from it by a library that knows no numbers of numpy's.
        super().set_seed(int(seed))

    def set_cache(self, cache: Any) -> None:
        """As the parent's.

        Raises:
            RequestError: it holds no states.
        """
        if cache is not None and not all(hasattr(cache, name) for name in _CACHE):
            raise RequestError(f"cache is {shown_value(cache)}; give a LlamaRAMCache or None")
        super().set_cache(cache)

    def eval(self, tokens: Sequence[int]) -> None:
        check_tokens(tokens, self.n_vocab())
        self._batches.check_writes()
        self._batches.check_room(len(tokens), self.n_tokens)
        super().eval(tokens)

    def sample(self, *arguments: Any, **options: Any) -> int:
        if not self.n_tokens:
            raise RequestError("nothing was computed yet; evaluate a token before sampling")
        # What an answer sampled with is not for what is sampled by hand after it.
        before = private.Sampling(self, over=self._is_idle)
        try:
            return int(super().sample(*arguments, **options))
        except BaseException:
            before.give_back(self)
            raise
