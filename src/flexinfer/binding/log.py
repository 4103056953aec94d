"""llama.cpp's log: on standard error for who asked for it, and there as the text of a stranger."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any

import llama_cpp

from flexinfer.binding.private import wants_log
from flexinfer.text import shown


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _write(level: int, text: bytes, _data: Any) -> None:
    # What is raised here is lost, and written to the screen instead.
    with contextlib.suppress(Exception):
        if wants_log():
            sys.stderr.write(shown(text.decode("utf-8", "replace")))
            sys.stderr.flush()


@functools.lru_cache(maxsize=1)
def listen() -> None:
    """Stand in the place of the binding's own callback, once; whoever sets one later has it.

    Of what fails there is an exception, so without `verbose` nothing at all is written.
    """
    llama_cpp.llama_log_set(_write, None)
