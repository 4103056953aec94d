"""The bytes of a model, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.source import FileSource


def tensor_bytes(path: Path) -> Iterator[tuple[str, bytes]]:
    catalogue = read_catalogue(path)
    for tensor in catalogue.tensors:
        with FileSource(catalogue.paths[tensor.file]) as source:
            yield tensor.name, source.read_at(tensor.offset, tensor.nbytes)
