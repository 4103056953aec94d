"""The library has no other architecture than the ones that are listed."""

from __future__ import annotations

import re
from pathlib import Path

import llama_cpp
from support.architectures.library import Library

from flexinfer.gguf.architectures import ARCHITECTURES


def test_the_library_has_no_other(tmp_path: Path) -> None:
    """Every text in the library that could be a name, and every end of one, is asked about."""
    library = Library(tmp_path)
    content = (Path(llama_cpp.__file__).parent / "lib/libllama.so").read_bytes()
    texts = {text.decode() for text in re.findall(rb"[a-z0-9][a-z0-9_.-]{1,40}(?=\0)", content)}
    names = {text[start:] for text in texts for start in range(len(text) - 1)}
    assert {name for name in names if library.knows(name)} == ARCHITECTURES
