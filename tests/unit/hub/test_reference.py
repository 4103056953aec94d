"""Which file a reference means."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer.errors import ModelNotFoundError, RequestError
from flexinfer.hub.reference import Reference, choose

FILES = [
    "README.md",
    "tiny-Q8_0.gguf",
    "tiny-Q4_K_M.gguf",
    "tiny-Q4_K_S.gguf",
    "mmproj-tiny-f16.gguf",
    "big/tiny-BF16-00001-of-00002.gguf",
    "big/tiny-BF16-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("want", "file"),
    [
        (None, "tiny-Q4_K_M.gguf"),
        ("q8_0", "tiny-Q8_0.gguf"),
        ("Q4_K_S", "tiny-Q4_K_S.gguf"),
        ("tiny-Q4_K_S.gguf", "tiny-Q4_K_S.gguf"),
        ("bf16", "big/tiny-BF16-00001-of-00002.gguf"),
        ("big/tiny-BF16-00001-of-00002.gguf", "big/tiny-BF16-00001-of-00002.gguf"),
    ],
)
def test_a_reference_means_one_file(want: str | None, file: str) -> None:
    assert choose(FILES, want) == file


def test_what_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Q5_K_M.*tiny-Q8_0\.gguf"):
        choose(FILES, "Q5_K_M")
    with pytest.raises(ModelNotFoundError, match="no GGUF file at all"):
        choose(["README.md", "mmproj-f16.gguf"], None)


def test_without_a_usual_quantisation_any_model_will_do() -> None:
    assert choose(["tiny-F16.gguf"], None) == "tiny-F16.gguf"


def test_references_are_read() -> None:
    assert Reference.parse("hf:a/b") == Reference("a/b", None)
    assert Reference.parse("hf:a/b:Q4_0") == Reference("a/b", "Q4_0")
    assert Reference.parse("hf:a/b:sub/c.gguf") == Reference("a/b", "sub/c.gguf")
    assert Reference.parse("hf:a/b@v1.0") == Reference("a/b", None, "v1.0")
    assert Reference.parse("hf:a/b@refs/pr/3:Q4_0") == Reference("a/b", "Q4_0", "refs/pr/3")


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:a",
        "hf:a/b/c",
        "hf:a/b:",
        "hf:/b",
        "hf:a/b@",
        "hf:a/b@:Q4_0",
        "hf:a/b@../../x",
        "hf:a/..",
        "hf:\u00ff/b",
        "hf:a/b--c",
        "hf:a/b.git",
        "hf:" + "a" * 97 + "/b",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="hf:user/repo"):
        Reference.parse(text)


def test_a_file_here_with_the_name_of_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hf:m.gguf").touch()
    with pytest.raises(RequestError, match=r"or \./hf:m\.gguf for the file here"):
        Reference.parse("hf:m.gguf")
