"""Whether one model can draft for another: both have to write the same tokens."""

from __future__ import annotations

from typing import Any

from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.header import read_array
from flexinfer.gguf.source import FileSource
from flexinfer.gguf.types import ArrayValue

_TOKENS = "tokenizer.ggml.tokens"
# As llama.cpp has it (``common_speculative_are_compatible``): the first few may be named otherwise,
# and one vocabulary may be padded longer.
_FIRST = 5
_PADDED = 128
_ALIKE = (
    ("tokenizer.ggml.model", "kind of vocabulary"),
    ("tokenizer.ggml.bos_token_id", "token that begins a text"),
    ("tokenizer.ggml.eos_token_id", "token that ends a text"),
)


def check_same_vocabulary(target: Catalogue, draft: Catalogue) -> None:
    """Raise where `draft` does not write the tokens of `target`.

    Raises:
        RequestError: says what differs.
        ModelFileError, ReadError: a header cannot be read any more.
    """
    why = _difference(target, draft)
    if why is not None:
        raise RequestError(
            f"{draft.paths[0]} cannot draft for {target.paths[0]}: {why}; give a smaller model of "
            "the same family"
        )


def _difference(target: Catalogue, draft: Catalogue) -> str | None:
    for key, name in _ALIKE:
        ours, theirs = target.metadata.get(key), draft.metadata.get(key)
        if ours != theirs:
            return f"its {name} is {theirs}, not {ours}"
    ours, theirs = _tokens(target), _tokens(draft)
    if abs(len(ours) - len(theirs)) > _PADDED:
        return f"its vocabulary has {len(theirs)} tokens, not {len(ours)}"
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if number >= _FIRST and one != other:
            return f"its token {number} is {other!r}, not {one!r}"
    return None


def _tokens(catalogue: Catalogue) -> list[Any]:
    array = catalogue.metadata.get(_TOKENS)
    if not isinstance(array, ArrayValue):
        return []
    with FileSource(catalogue.paths[0]) as source:
        return read_array(source, array)
