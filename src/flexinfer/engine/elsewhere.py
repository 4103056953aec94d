"""The devices beside ours that have layers of a model: workers' memory and graphics cards'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexinfer.errors import WorkerError
from flexinfer.native.device.lists import DeviceList
from flexinfer.native.rpc import rpc
from flexinfer.planning.split import Split
from flexinfer.sizes import format_size


class Elsewhere:
    """Where the layers of one model are that are not on our device.

    Args:
        split: which layers those are.
        devices: the ``ggml_backend_dev_t`` of each name in it.

    Raises:
        WorkerError: a worker does not answer any more, or somebody else has taken its memory.
    """

    def __init__(self, split: Split, cards: Mapping[str, int]) -> None:
        self.split = split
        shares = (*split.before, *split.after)
        self.workers = tuple(share.name for share in shares if share.name not in cards)
        self._before = [self._device(share.name, cards) for share in split.before]
        self._after = [self._device(share.name, cards) for share in split.after]
        self._require_memory()

    def __repr__(self) -> str:
        return (
            f"<Elsewhere {self.split.counts} layers, workers {', '.join(self.workers) or 'none'}>"
        )

    def set(self, params: Any, ours: int, slots: int) -> DeviceList:
        """Put all devices into ``llama_model_params``; the result is kept while it loads."""
        devices = [*self._before, ours, *self._after]
        listed = DeviceList(devices, self.split.counts, slots)
        listed.set(params)
        return listed

    @property
    def lost(self) -> tuple[str, ...]:
        """Workers that the connection to is lost."""
        return tuple(name for name in self.workers if rpc().lost(name) is not None)

    def check(self) -> None:
        """Raise where a worker is lost.

        Raises:
            WorkerError: says which one, and why.
        """
        for name in self.lost:
            raise WorkerError(
                f"worker {name} is lost: {rpc().lost(name)}; what it had of this answer is gone, "
                "ask again and the plan does without it"
            )

    def explain(self, error: Exception) -> Exception:
        """Why a model or a context could not be had: a worker's fault, or `error`."""
        try:
            self.check()
            self._require_memory()
        except WorkerError as found:
            return found
        return error

    def _require_memory(self) -> None:
        for share in (*self.split.before, *self.split.after):
            free = rpc().free(share.name) if share.name in self.workers else share.needs
            if free < share.needs:
                raise WorkerError(
                    f"worker {share.name} has {format_size(free)} free, too little for "
                    f"{share.layers} layers, which need {format_size(share.needs)}; start it with "
                    "more --memory, or ask for a smaller context"
                )

    def _device(self, name: str, cards: Mapping[str, int]) -> int:
        return cards[name] if name in cards else rpc().device(name)
