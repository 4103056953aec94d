"""An answer to a prompt with images, which stands where `Answer` stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flexinfer.binding.pictures import Pictures
from flexinfer.errors import FlexInferError, RequestError

if TYPE_CHECKING:
    from flexinfer.llama import Llama


class SeenAnswer:
    """The tokens and the text of an answer about images, computed while it is iterated over.

    Args:
        llm: computes; `pictures` is its chat handler.
        text: the prompt, with a marker for each image.
        images: their files' bytes.
        limit: at most so many tokens.
        stops: texts that end the answer; they are not part of it.
        sampling: as for `Llama.generate`.
    """

    def __init__(
        self,
        llm: Llama,
        pictures: Pictures,
        text: str,
        images: Sequence[bytes],
        limit: int,
        stops: Sequence[str] = (),
        **sampling: Any,
    ) -> None:
        self.text = ""
        # Known once the images were looked at: each takes as many as its projector makes of it.
        self.prompt: list[int] = []
        self.tokens: list[int] = []
        self._llm = llm
        self._messages = pictures.ask(text, images)
        self._options = {
            **sampling,
            "temperature": sampling.get("temp", 0.8),
            "max_tokens": limit,
            "stop": [stop for stop in stops if stop],
            "repeat_penalty": 1.0,
        }
        self._options.pop("temp", None)

    def __repr__(self) -> str:
        return f"<SeenAnswer {len(self.tokens)} tokens>"

    def __iter__(self) -> Iterator[str]:
        try:
            chunks = self._llm.create_chat_completion(self._messages, stream=True, **self._options)
            self.prompt = self._known()
            for chunk in chunks:
                text = chunk["choices"][0]["delta"].get("content") or ""
                self.text += text
                self.tokens = self._known()[len(self.prompt) :]
                yield text
        except FlexInferError:
            raise
        except ValueError as error:
            raise RequestError(
                f"the prompt with its images cannot be computed: {error}; give a larger --ctx or "
                "smaller images"
            ) from error

    def _known(self) -> list[int]:
        return [int(token) for token in self._llm.input_ids[: self._llm.n_tokens]]
