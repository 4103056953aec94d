"""Which models write the same tokens, so that one can draft for the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny_model import TinyModel

from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.same_vocabulary import check_same_vocabulary


@pytest.fixture
def target(tiny_model: TinyModel) -> Catalogue:
    return read_catalogue(tiny_model("tiny-llama"))


def changed(path: Path, out: Path, token: bytes, other: bytes) -> Catalogue:
    """The same model with one token written otherwise."""
    content = path.read_bytes()
    assert len(token) == len(other)
    assert content.count(token) >= 1
    out.write_bytes(content.replace(token, other, 1))
    return read_catalogue(out)


def test_models_of_one_vocabulary(target: Catalogue, tiny_model: TinyModel) -> None:
    check_same_vocabulary(target, target)
    check_same_vocabulary(target, read_catalogue(tiny_model("tiny-moe", "q4_K")))


def test_a_vocabulary_of_another_length(target: Catalogue, tiny_model: TinyModel) -> None:
    with pytest.raises(RequestError, match="vocabulary has 32000 tokens, not 2048; give a smaller"):
        check_same_vocabulary(target, read_catalogue(tiny_model("tiny-wide")))


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("tokenizer.ggml.model", "gpt2", "kind of vocabulary is gpt2, not llama"),
        ("tokenizer.ggml.bos_token_id", 7, "token that begins a text is 7, not 1"),
        ("tokenizer.ggml.eos_token_id", 7, "token that ends a text is 7, not 2"),
    ],
)
def test_other_rules(target: Catalogue, key: str, value: Any, match: str) -> None:
    with pytest.raises(RequestError, match=match):
        check_same_vocabulary(target, replace(target, metadata={**target.metadata, key: value}))


def test_another_token(target: Catalogue, tmp_path: Path) -> None:
    path = Path(target.paths[0])
    other = changed(path, tmp_path / "a.gguf", b"<0x41>", b"<0x4a>")
    with pytest.raises(RequestError, match="its token 68 is '<0x4a>', not '<0x41>'"):
        check_same_vocabulary(target, other)
    # The first few may be named otherwise.
    check_same_vocabulary(target, changed(path, tmp_path / "b.gguf", b"<unk>", b"<non>"))
