"""A process that was forked from one that had the device, and the thread in which that happened."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from flexinfer.native.device.aborts import in_new_thread

T = TypeVar("T")


class Forks:
    """Whether this process was forked.

    Args:
        forget: called in such a process first: what it took along is its parent's.
    """

    def __init__(self, forget: Callable[[], None]) -> None:
        self._thread: int | None = None
        self._forget = forget
        os.register_at_fork(after_in_child=self._happened)

    @property
    def forked(self) -> bool:
        return self._thread is not None

    def in_living_thread(self, call: Callable[[], T]) -> T:
        """The result of `call`, which computes; in another thread where this one would hang.

        OpenMP keeps its helpers by the thread that had them work, and a fork takes along that
        thread alone: it would wait for helpers that are gone.
        """
        return in_new_thread(call) if threading.get_ident() == self._thread else call()

    def _happened(self) -> None:
        self._thread = threading.get_ident()
        self._forget()
