"""Vocabularies of any size, and the tokens in a file."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.header import read_array
from flexinfer.gguf.source import FileSource
from flexinfer.synth.vocabulary import vocabulary


@pytest.mark.parametrize("size", [400, 2048, 32000, 151936])
def test_tokens_are_distinct_and_as_many_as_asked(size: int) -> None:
    words = vocabulary(size)
    assert len(words.tokens) == len(words.scores) == len(words.types) == size
    assert len(set(words.tokens)) == size
    assert all(word for word in words.tokens)


def test_the_file_keeps_the_tokens(tiny_model: Any) -> None:
    path = tiny_model("tiny-llama", "q4_0")
    metadata = read_catalogue(path).metadata
    with FileSource(path) as source:
        assert read_array(source, metadata["tokenizer.ggml.tokens"]) == vocabulary(2048).tokens
