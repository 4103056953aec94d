"""Saving what was computed and taking it up again: counted in the budget, and never another's."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path

import llama_cpp
from llama_cpp.llama import LlamaState

from flexinfer.binding import state as states
from flexinfer.errors import RequestError
from flexinfer.memory.ledger import Ledger


class Saving(llama_cpp.Llama):
    """The parent's methods that keep what a context has computed."""

    _ledger: Ledger
    # Name of the kernels that compute, in which states are told apart.
    _kernels: str

    @abstractmethod
    def memory_use(self) -> dict[str, int]:
        """Bytes by purpose; `kv` is the cache that a state is written from."""

    def save_state(self) -> LlamaState:
        """What was computed so far, as a copy that counts in the budget as long as it lives.

        Raises:
            BudgetError: it does not fit; see `save_state_file`.
        """
        return states.save_state(self, self._ledger)

    def load_state(self, state: LlamaState) -> None:
        """Go on from a state that `save_state` returned, here or of the parent class.

        Raises:
            RequestError: it is another model's, or larger than the context.
        """
        states.load_state(self, state)

    def save_state_file(self, path: str | os.PathLike[str]) -> None:
        """Write what was computed so far to a file, layer by layer.

        Raises:
            RequestError: nothing was computed, or the file cannot be written.
        """
        states.write_file(self, Path(path), self._ledger, self.memory_use()["kv"], self._kernels)

    def load_state_file(self, path: str | os.PathLike[str]) -> int:
        """Go on from a file that `save_state_file` wrote; returns the number of its tokens.

        Raises:
            RequestError: it is no state, another model's, larger than the context, or was
                computed with other kernels.
        """
        kv_bytes = self.memory_use()["kv"]
        ids = states.read_file(self, Path(path), self._ledger, kv_bytes, self._kernels)
        if ids is None:
            raise RequestError(
                f"{os.fspath(path)} is no state of this model that fits the context of "
                f"{self.n_ctx()}; give another file or a larger n_ctx"
            )
        return len(ids)
