"""The file of results: one record a line, appended as answers come, read again to go on.

A record is whole or it is not there: a line that a killed process left unfinished is cut off when
the file is opened again, and its request asked once more.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from flexinfer.batch.requests import BadLine, Request
from flexinfer.errors import RequestError

_PREFIX = "batch_req_"


class Results:
    """Records of one batch file, by the numbers of its lines.

    Args:
        path: is made where it does not exist; what is in it is kept.

    Raises:
        RequestError: the file cannot be written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[int, str | None] = {}
        try:
            # A pipe or a device holds nothing to go on from, and cannot be read again.
            kept = path.is_file() or not path.exists()
            self._file = path.open("ab+" if kept else "wb")
        except OSError as error:
            raise RequestError(f"cannot write {path}: {error.strerror}") from error
        try:
            if kept:
                self._recover()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # what was appended was flushed
            self._file.close()

    def __len__(self) -> int:
        return len(self._done)

    def has(self, asked: Request | BadLine) -> bool:
        """Whether the record of `asked` is there.

        Raises:
            RequestError: the record of this line is another request's.
        """
        if asked.line not in self._done:
            return False
        if self._done[asked.line] != asked.custom_id:
            raise RequestError(
                f"{self._path}: the result of line {asked.line} is that of "
                f"{self._done[asked.line]!r}, but the line asks {asked.custom_id!r}; it belongs "
                "to another batch file, give another name"
            )
        return True

    def add_answer(self, request: Request, status: int, body: Any) -> None:
        """Append what the server answered, with its HTTP status.

        Raises:
            RequestError: it could not be written, as when the disk is full.
        """
        response = {"status_code": status, "request_id": _id(request.line), "body": body}
        self._append(request, {"response": response, "error": None})

    def add_error(self, asked: Request | BadLine, code: str, message: str) -> None:
        """Append that `asked` has no answer, and why. Raises RequestError as `add_answer`."""
        self._append(asked, {"response": None, "error": {"code": code, "message": message}})

    def _append(self, asked: Request | BadLine, outcome: dict[str, Any]) -> None:
        record = {"id": _id(asked.line), "custom_id": asked.custom_id, **outcome}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise RequestError(
                f"cannot write {self._path}: {error.strerror}; the same command goes on from "
                f"{len(self._done)} results that are there"
            ) from error
        self._done[asked.line] = asked.custom_id

    def _recover(self) -> None:
        self._file.seek(0)
        whole = 0
        for number, text in enumerate(self._file, 1):
            if not text.endswith(b"\n"):
                break
            self._note(number, text)
            whole += len(text)
        os.ftruncate(self._file.fileno(), whole)

    def _note(self, number: int, text: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            record = json.loads(text)
            self._done[int(record["id"].removeprefix(_PREFIX))] = record["custom_id"]
            return
        raise RequestError(
            f"{self._path}: line {number} is no result of a batch; give another name"
        )


def _id(line: int) -> str:
    return f"{_PREFIX}{line}"
