"""The backends that llama.cpp creates of the device, each with one of ggml's own that computes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from flexinfer.native import mirror
from flexinfer.native.device.callbacks import Callbacks
from flexinfer.native.library import Library, library
from flexinfer.native.mirror import CGraph


class InnerBackend:
    """One ggml backend that llama.cpp created, with the CPU backend that does its work."""

    def __init__(self, native: Library) -> None:
        self._native = native
        self.cpu: int = native.ggml_backend_cpu_init()

    def set_threads(self, n: int) -> None:
        self._native.ggml_backend_cpu_set_n_threads(self.cpu, n)

    def compute(self, graph: CGraph) -> int:
        """Compute all nodes of `graph`; returns a ggml status."""
        return int(self._native.ggml_backend_graph_compute(self.cpu, ctypes.addressof(graph)))

    def free(self) -> None:
        self._native.ggml_backend_free(self.cpu)


def work_size(graph: CGraph, threads: int) -> int:
    """Bytes of scratch memory that a CPU backend of so many threads needs for `graph`."""
    plan = library().ggml_graph_plan(ctypes.addressof(graph), threads, None)
    return int(plan.work_size)


class Backends:
    """All backends of the device that live.

    Args:
        native: the checked library.
        compute: computes the graph at an address with a backend; returns a ggml status.
        optimize: is shown the address of each graph that is reserved or about to be computed.
    """

    def __init__(
        self,
        native: Library,
        compute: Callable[[InnerBackend, int], int],
        optimize: Callable[[int], None],
    ) -> None:
        self._native = native
        self._compute = compute
        self._optimize = optimize
        self._device = 0
        self._guid = (ctypes.c_uint8 * 16)(*b"flexinfer-device")
        self._interface = mirror.BackendInterface()
        self._live: dict[int, tuple[mirror.Backend, InnerBackend]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def build(self, device: int, get_name: int, callbacks: Callbacks) -> int:
        """Fill in the interface for the device at that address; returns what creates a backend."""
        self._device = device
        face = self._interface
        face.get_name = get_name
        face.free = callbacks.address(mirror.FreeBuffer, self._free)
        face.graph_compute = callbacks.address(
            mirror.GraphCompute,
            lambda backend, graph: self._compute(self._live[backend][1], graph),
            mirror.STATUS_FAILED,
        )
        face.graph_optimize = callbacks.address(
            mirror.GraphOptimize, lambda _backend, graph, _params: self._optimize(graph)
        )
        return callbacks.address(mirror.InitBackend, self._init)

    def set_threads(self, backend: int, n: int) -> None:
        self._live[backend][1].set_threads(n)

    def set_abort_callback(self, backend: int, callback: int, data: int) -> None:
        cpu = self._live[backend][1].cpu
        self._native.ggml_backend_cpu_set_abort_callback(cpu, callback, data)

    def _init(self, _device: int, _params: bytes | None) -> int:
        inner = InnerBackend(self._native)
        backend = mirror.Backend()
        backend.guid = ctypes.addressof(self._guid)
        backend.iface = self._interface
        backend.device = self._device
        address = ctypes.addressof(backend)
        self._live[address] = (backend, inner)
        return address

    def _free(self, address: int) -> None:
        self._live.pop(address)[1].free()
