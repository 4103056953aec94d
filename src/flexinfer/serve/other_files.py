"""Files beside the model that a server loads: what they take, and whether they belong to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from flexinfer.errors import ModelNotFoundError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.check_adapter import check_adapter
from flexinfer.gguf.check_projector import check_projector


def file_bytes(paths: Iterable[str]) -> int:
    """Of all of them.

    Raises:
        ModelNotFoundError: there is no such file.
    """
    total = 0
    for path in paths:
        try:
            total += os.path.getsize(path)
        except OSError as error:
            raise ModelNotFoundError(f"{path}: {error.strerror}; give another file") from error
    return total


def projector_bytes(path: str | None) -> int:
    """Of what reads images, if there is one.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is broken, or another kind of file.
    """
    if path is None:
        return 0
    check_projector(path)
    return file_bytes([path])


def adapter_bytes(paths: Sequence[str], model: Catalogue) -> int:
    """Of LoRA adapters.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is no adapter of the model.
    """
    total = file_bytes(paths)
    for path in paths:
        check_adapter(path, model)
    return total
