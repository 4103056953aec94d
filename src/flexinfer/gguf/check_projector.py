"""Whether a file is an image projector, before llama.cpp reads it."""

from __future__ import annotations

import os

from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import read_catalogue


def check_projector(path: str | os.PathLike[str]) -> None:
    """Look at a file that shall read images for a model.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is broken, or another kind of file.
    """
    kind = read_catalogue(path).architecture
    if kind != "clip":
        raise ModelFileError(
            f"{os.fspath(path)} is no projector (its architecture is {kind}); give the mmproj file "
            "that was made for this model"
        )
