"""A grammar at work: llama.cpp's sampler of it, which may throw, and need not come back in time.

It keeps one stack for each way in which the text so far can be read. A grammar that reads a text
in many ways makes them many times more with each character, and a token has several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import llama_cpp
import numpy as np
import numpy.typing as npt

from flexinfer.errors import RequestError

T = TypeVar("T")
# A large vocabulary takes a tenth of a second where a grammar can be read in one way.
SECONDS = 10.0


class Survive(Protocol):
    """Makes a native call that may abort or take longer than `seconds`.

    `blame` makes the error of the reason; `stack` is what the call needs, in bytes, 0 for as much
    as any. A call that is late goes on, which `late` is told: what it reads is never freed.
    """

    def __call__(
        self,
        call: Callable[[], T],
        blame: Callable[[str], Exception],
        *,
        seconds: float | None = None,
        late: Callable[[], object] = ...,
        stack: int = 0,
    ) -> T: ...


class GrammarSampler:
    """Chooses among `tokens` those that a native grammar allows; it never learns of another.

    Args:
        native: of llama.cpp; freed by `close`.
    """

    def __init__(self, native: Any, tokens: int, survive: Survive) -> None:
        self._native: Any = native
        self._survive = survive
        self._allowed = np.zeros(tokens, bool)
        # Of our own: whoever does not come back in time goes on writing into them.
        self._candidates = (llama_cpp.llama_token_data * tokens)()

    def apply(self, candidates: Any) -> None:
        """Take from ``llama_token_data_array`` what is not allowed here.

        Raises:
            RequestError: that is all, or it cannot be told in time.
        """
        given = fields(candidates.contents.data, int(candidates.contents.size))
        own = llama_cpp.llama_token_data_array(data=self._candidates, size=len(given))
        found = fields(own.data, len(given))
        found[:] = given
        self._bounded(lambda native: llama_cpp.llama_sampler_apply(native, own))
        given[:] = found
        self._allowed[:] = False
        self._allowed[found["id"][found["logit"] > -np.inf]] = True
        if not self._allowed.any():
            raise RequestError(
                "the grammar allows none of the model's tokens here; give another grammar"
            )

    def accept(self, token: int) -> None:
        """Go on after `token`.

        Raises:
            RequestError: llama.cpp cannot, or not in time.
        """
        if self._allowed[token]:
            self._bounded(lambda native: llama_cpp.llama_sampler_accept(native, token))

    def close(self) -> None:
        """Free it; may be called again."""
        native, self._native = self._native, None
        if native is not None:
            llama_cpp.llama_sampler_free(native)

    def _bounded(self, call: Callable[[Any], None]) -> None:
        # A thread that did not come back uses it for ever: it is only freed after one that did.
        native, self._native = self._native, None
        if native is None:
            raise RequestError("the grammar failed before; give another one")
        self._survive(
            lambda: call(native),
            lambda condition: RequestError(
                f"llama.cpp cannot follow the grammar here, {condition}; give one whose "
                "alternatives begin differently"
            ),
            seconds=SECONDS,
        )
        self._native = native


def fields(data: Any, size: int) -> npt.NDArray[Any]:
    """A view of ``llama_token_data``: fields id, logit, p."""
    return np.ctypeslib.as_array(data, shape=(size,))
