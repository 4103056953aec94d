"""Who computes a graph: the owner of its weights."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from typing import Protocol

from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.mirror import CGraph, Tensor


class Runner(Protocol):
    """Owner of a model's weights: computes graphs that use them."""

    def compute(self, backend: InnerBackend, graph: int) -> int:
        """Compute the graph at that address; returns a ggml status, may raise."""


class Owners:
    """The runner of each weight that was loaded, by the address of its tensor.

    `default` computes graphs without any; None: they are computed as they are.
    """

    def __init__(self) -> None:
        self.default: Runner | None = None
        self._known: dict[int, Runner] = {}
        self.forget_others()

    def forget_others(self) -> None:
        """In a process that was forked: a lock that another thread held is held for ever."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, weights: Iterable[int], runner: Runner) -> None:
        with self._lock:
            self._known.update(dict.fromkeys(weights, runner))

    def remove(self, runner: Runner) -> None:
        with self._lock:
            for address in [a for a, r in self._known.items() if r is runner]:
                del self._known[address]

    def forget(self, weights: Iterable[int]) -> None:
        """These weights no longer exist."""
        with self._lock:
            for address in weights:
                self._known.pop(address, None)

    def of(self, graph: CGraph) -> Runner | None:
        """The owner of the first weight in `graph`; the default for those that only move data."""
        known = self._known
        if not known:
            return self.default
        nodes = (ctypes.c_void_p * graph.n_nodes).from_address(graph.nodes)
        for node in nodes:
            for source in Tensor.from_address(node).src:
                if not source:
                    continue
                while source not in known and (view := Tensor.from_address(source).view_src):
                    source = view
                if source in known:
                    return known[source]
        return self.default
