"""What is asked of an open model: prompts, samples, states, each checked and one at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import llama_cpp
from llama_cpp.llama import LlamaState

from flexinfer.binding import private, state
from flexinfer.binding.check_batches import Batches
from flexinfer.errors import EngineError, RequestError
from flexinfer.memory.ledger import Ledger

Own = TypeVar("Own", bound="Calls")


class Calls(llama_cpp.Llama):
    """The parent's methods that compute, refused where llama.cpp would end the process."""

    _batches: Batches
    _ledger: Ledger
    # Not in a constructor of its own: the parent's computes nothing before these exist.
    _use: threading.RLock
    _process: int

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def memory_use(self) -> dict[str, int]:
        """Bytes by purpose; `kv` is the cache that a state is written from."""

    @abstractmethod
    def _check_open(self) -> None:
        """Raise `EngineError` once the model is closed, or while it closes."""

    def generate(
        self, tokens: Sequence[int], *arguments: Any, **options: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Tokens after a prompt, as the parent's; a model with an encoder reads it there first.

        Raises:
            RequestError: the model writes no text, or its encoder cannot take the prompt at once.
        """
        if self._batches.encodes_prompts:
            start = self._batches.start_after(tokens)
            with self._in_use():
                private.encode(self, list(tokens))
            tokens = [start]
        yield from super().generate(tokens, *arguments, **options)

    def create_completion(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's; a model with an encoder gives no logprobs."""
        if options.get("logprobs") is not None:
            self._batches.check_logprobs()
        return super().create_completion(*arguments, **options)

    def check_prompt(self, tokens: Sequence[int]) -> None:
        """Raise `RequestError` for a prompt that `generate` would refuse."""
        self._batches.check_writes()
        if self._batches.encodes_prompts:
            self._batches.start_after(tokens)

    def eval(self, tokens: Sequence[int]) -> None:
        with self._in_use():
            self._batches.check_writes()
            super().eval(tokens)

    def sample(self, *arguments: Any, **options: Any) -> int:
        with self._in_use():
            return int(super().sample(*arguments, **options))

    def save_state(self) -> LlamaState:
        """What was computed so far, as a copy that counts in the budget as long as it lives.

        Raises:
            BudgetError: it does not fit; see `save_state_file`.
        """
        with self._in_use():
            return state.save_state(self, self._ledger)

    def load_state(self, saved: LlamaState) -> None:
        """Go on from a state that `save_state` returned, here or of the parent class.

        Raises:
            RequestError: it is another model's, or larger than the context.
        """
        with self._in_use():
            state.load_state(self, saved)

    def save_state_file(self, path: str | os.PathLike[str]) -> None:
        """Write what was computed so far to a file, layer by layer.

        Raises:
            RequestError: nothing was computed, or the file cannot be written.
        """
        with self._in_use():
            state.write_file(self, Path(path), self._ledger, self.memory_use()["kv"])

    def load_state_file(self, path: str | os.PathLike[str]) -> int:
        """Go on from a file that `save_state_file` wrote; returns the number of its tokens.

        Raises:
            RequestError: it is no state, another model's, or larger than the context.
        """
        with self._in_use():
            ids = state.read_file(self, Path(path), self._ledger, self.memory_use()["kv"])
        if ids is None:
            raise RequestError(
                f"{os.fspath(path)} is no state of this model that fits the context of "
                f"{self.n_ctx()}; give another file or a larger n_ctx"
            )
        return len(ids)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Nothing is freed meanwhile; raises `EngineError` where the model cannot be used."""
        with self._use:
            self._check_open()
            if self._process != os.getpid():
                raise EngineError(
                    f"the model was opened by process {self._process}, whose threads a fork does "
                    "not have; open it in this one"
                )
            yield
