"""The headers of the bundled models."""

from __future__ import annotations

from pathlib import Path

import pytest

import flexinfer
from flexinfer.gguf.catalogue import read_catalogue


@pytest.mark.parametrize(
    ("file", "architecture", "layers"),
    [("shakespeare.gguf", "llama", 6), ("shakespeare-moe.gguf", "qwen3moe", 4)],
)
def test_header(file: str, architecture: str, layers: int) -> None:
    catalogue = read_catalogue(Path(flexinfer.__file__).parent / "data" / file)
    assert catalogue.architecture == architecture
    assert catalogue.metadata[f"{architecture}.block_count"] == layers
    assert sum(catalogue.sizes) < 5_000_000
