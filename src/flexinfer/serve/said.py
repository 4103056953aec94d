"""What a serving process says: lines as they come, documents among them, errors by their names."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from flexinfer import errors
from flexinfer.errors import EngineError, FlexInferError
from flexinfer.text import one_line


class Lines:
    """Lines of a descriptor, each told as it ends; those of JSON can be found again."""

    def __init__(self, told: Callable[[str], object]) -> None:
        self._told = told
        self._rest = b""
        self._found: list[dict[str, Any]] = []

    def feed(self, descriptor: int) -> bool:
        """Read what there is; False at the end of it."""
        data = os.read(descriptor, 1 << 16)
        # A bar of progress ends its lines with a carriage return.
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if not data and self._rest:
            lines, self._rest = [self._rest], b""
        for line in lines:
            if line.startswith(b"{"):
                with contextlib.suppress(ValueError):
                    self._found.append(json.loads(line))
            if line.strip():
                self._told(one_line(line.decode("utf-8", "replace")))
        return bool(data)

    def found(self, key: str) -> Any:
        """What was said under `key`, or the whole document for its address."""
        for document in self._found:
            if key in document:
                return document if key == "address" else document[key]
        return None


def named_error(name: object, message: str, said: Sequence[str] = ()) -> FlexInferError:
    """The exception of that name, or an `EngineError`; `said` is added where it is pointed at."""
    kind = getattr(errors, str(name), EngineError)
    if not (isinstance(kind, type) and issubclass(kind, FlexInferError)):
        kind = EngineError
    if said and "standard error" in message:
        message = f"{message}: {' '.join(said[-3:])}"
    return kind(message)
