"""The list of architectures beside the library that it speaks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.architectures.library import Library

from flexinfer.gguf.architectures import ARCHITECTURES


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def test_the_library_has_each_that_is_listed(library: Library) -> None:
    assert {name for name in ARCHITECTURES if not library.knows(name)} == set()
    assert not library.knows("llamas")
