"""Functions of the binding are replaced by one thread at a time, also after a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

_lock = threading.RLock()


@contextmanager
def replaced(module: Any, ours: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """While entered, this thread's calls of functions of `module` go to `ours`.

    Those are given the function that they stand for, and then its arguments.
    """
    me = threading.get_ident()
    # Looked up under the lock: what another thread replaced is no function to go back to.
    with _lock:
        theirs = {name: getattr(module, name) for name in ours}

        def called(name: str, *arguments: Any) -> Any:
            if threading.get_ident() != me:
                return theirs[name](*arguments)
            return ours[name](theirs[name], *arguments)

        for name in ours:
            setattr(module, name, partial(called, name))
        try:
            yield
        finally:
            for name, function in theirs.items():
                setattr(module, name, function)


def _anew() -> None:
    """A lock that another thread held is held for ever in a process that was forked."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_anew)
