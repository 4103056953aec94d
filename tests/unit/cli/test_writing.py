"""What is said of errors while a model is written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flexinfer.cli.writing import writing
from flexinfer.errors import ReadError, RequestError


def test_errors_of_the_drive_name_what_was_to_be_written() -> None:
    with (
        pytest.raises(RequestError, match="copy cannot be written: No space left on device"),
        writing(Path("copy")),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_could_not_be_read_is_said_as_it_is() -> None:
    with pytest.raises(ReadError, match="model could not be read"), writing(Path("copy")):
        raise ReadError("model could not be read")
