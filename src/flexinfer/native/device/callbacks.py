"""Python functions that C calls. Nothing may be raised into C, which would go on with garbage."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any


class Callbacks:
    """Keeps callbacks alive, and the exception that one of them ended with, by thread."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._failures: dict[int, BaseException] = {}

    def address(self, kind: Any, function: Callable[..., Any], failure: Any = None) -> int:
        """The C address of `function`, of ctypes type `kind`; returns `failure` if it raises."""

        def guarded(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException as error:  # nothing may pass into C
                self._failures[threading.get_ident()] = error
                return failure

        callback = kind(guarded)
        self._kept.append(callback)
        return ctypes.cast(callback, ctypes.c_void_p).value or 0

    def take_failure(self) -> BaseException | None:
        """The exception that a callback of this thread kept, once."""
        return self._failures.pop(threading.get_ident(), None)
