"""Functions of the binding are replaced by one thread at a time, also after a fork."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

_lock = threading.RLock()


def one_at_a_time() -> AbstractContextManager[bool]:
    """To be held while functions of the binding are replaced."""
    return _lock


def _anew() -> None:
    """A lock that another thread held is held for ever in a process that was forked."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_anew)
