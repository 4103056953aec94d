"""A failing drive with a model on it, for tests; its file system is a program of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.faulty_drive import FaultyDrive, mounted


@contextmanager
def holding(model: Path, folder: Path, *, direct_io: bool = False) -> Iterator[FaultyDrive]:
    """A drive in `folder` that has a copy of the model as model.gguf; skips where none can be."""
    source = folder / "source"
    source.mkdir()
    shutil.copy(model, source / "model.gguf")
    try:
        with mounted(source, folder / "mounted", direct_io=direct_io) as drive:
            yield drive
    except OSError as error:
        pytest.skip(str(error))
