"""What is told of a server: with what it answers, by its options and its model's metadata."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.serve.about import about
from flexinfer.serve.arguments import read_extra
from flexinfer.serve.reserve import Sizes
from flexinfer.serve.settings import Settings

SIZES = Sizes(2, 512, 64, 32, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, said=("no prompt cache",))


def told(metadata: dict[str, Any], *flags: str, **settings: Any) -> dict[str, Any]:
    catalogue = Catalogue(("/models/some.gguf",), (1,), metadata, ())
    return about(Settings(1 << 30, flags=read_extra(flags), **settings), SIZES, catalogue)


def test_slots_and_what_gave_way() -> None:
    document = told({"general.name": "Some model"})
    assert document["model"] == "Some model"
    assert told({}, alias="mine")["model"] == "mine"
    assert (document["slots"], document["slot_ctx"]) == (2, 512)
    assert document["said"] == ["no prompt cache"]


@pytest.mark.parametrize(
    ("metadata", "flags", "settings", "answers"),
    [
        ({}, (), {}, "text"),
        ({"tokenizer.chat_template": "{{ messages }}"}, (), {}, "chat"),
        ({"tokenizer.chat_template.tool_use": "{{ messages }}"}, (), {}, "chat"),
        ({}, ("--chat-template", "chatml"), {}, "chat"),
        ({}, ("--chat-template-file", "some.jinja"), {}, "chat"),
        ({"tokenizer.chat_template": "x"}, (), {"embeddings": True}, "vectors"),
        ({"tokenizer.chat_template": "x"}, ("--rerank",), {}, "vectors"),
    ],
)
def test_with_what_it_answers(
    metadata: dict[str, Any], flags: tuple[str, ...], settings: dict[str, Any], answers: str
) -> None:
    assert told(metadata, *flags, **settings)["answers"] == answers
