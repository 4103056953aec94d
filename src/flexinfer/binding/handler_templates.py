"""Chat handlers of the binding that render the model's template themselves: done in the child, too.

They make an environment of jinja2 in the middle of a call, by a name of their module. That name
stands for one of ours, which is theirs but for the template of the model that is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp.llama_chat_format as llama_chat_format
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flexinfer.binding.chat_template import render_elsewhere

# The child has its own.
_FUNCTIONS = {"raise_exception", "strftime_now"}
_here = threading.local()


class _Rendered:
    """A template as handlers use one."""

    def __init__(self, source: str) -> None:
        self._source = source

    def render(self, **values: Any) -> str:
        given = {name: value for name, value in values.items() if name not in _FUNCTIONS}
        return render_elsewhere(self._source, given)


class _Environment(ImmutableSandboxedEnvironment):
    def from_string(self, source: Any, *arguments: Any, **options: Any) -> Any:
        if source == getattr(_here, "source", None):
            return _Rendered(source)
        return super().from_string(source, *arguments, **options)


@contextmanager
def template_of_stranger(source: str | None) -> Iterator[None]:
    """While entered, handlers that this thread calls have this template rendered in the child."""
    _here.source = source
    try:
        yield
    finally:
        _here.source = None


llama_chat_format.ImmutableSandboxedEnvironment = _Environment
