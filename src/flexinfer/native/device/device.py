"""The ggml device: ggml's callbacks on one side, plain Python objects on the other.

llama.cpp hands this device every layer of a model that is loaded inside `Device.loading`, so
each batch arrives in `graph_compute` as one graph with the order of all weights. The device only
translates; what is computed when is decided by the `Runner` that owns the model.

One for a process, as ggml has one registry. Its parts: `callbacks` keeps exceptions out of C,
`scopes` knows what each thread is about, `buffers` answers every allocation.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from flexinfer.native import mirror
from flexinfer.native.device.aborts import Aborts
from flexinfer.native.device.buffers import Allocations, Buffers
from flexinfer.native.device.callbacks import Callbacks
from flexinfer.native.device.phases import Loading, Measuring, Scopes
from flexinfer.native.library import Library, library
from flexinfer.native.mirror import CGraph, Tensor

T = TypeVar("T")

_NAME = ctypes.create_string_buffer(b"FlexInfer")


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


class Runner(Protocol):
    """Owner of a model's weights: computes graphs that use them."""

    def compute(self, backend: InnerBackend, graph: int) -> int:
        """Compute the graph at that address; returns a ggml status, may raise."""


class Device:
    """The device of this process; `device()` registers it on first use.

    Args:
        native: the checked library.
    """

    def __init__(self, native: Library) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._callbacks = Callbacks()
        self._scopes = Scopes()
        self._buffers = Buffers(native, self._callbacks, self._scopes, self._forget)
        self._owners: dict[int, Runner] = {}
        self._backends: dict[int, tuple[mirror.Backend, InnerBackend]] = {}
        self.graphs_entered = 0
        self._aborts = Aborts(native)
        self._build()
        native.ggml_backend_register(ctypes.addressof(self._reg))

    def __repr__(self) -> str:
        return (
            f"<Device {len(self._owners)} weights, {len(self._backends)} backends, "
            f"{len(self._buffers)} buffers>"
        )

    @property
    def address(self) -> int:
        """The ``ggml_backend_dev_t`` to name in ``llama_model_params.devices``."""
        return ctypes.addressof(self._device)

    @property
    def device_list(self) -> int:
        """A NULL-terminated array with this device alone."""
        return ctypes.addressof(self._list)

    @property
    def allocations(self) -> Allocations | None:
        """Is asked before any run-time buffer of any model is allocated."""
        return self._buffers.allocations

    @allocations.setter
    def allocations(self, allocations: Allocations) -> None:
        self._buffers.allocations = allocations

    # -- scopes -----------------------------------------------------------------------------

    def loading(self) -> contextlib.AbstractContextManager[Loading]:
        """While entered, weight buffers of this thread are address space and nothing is read."""
        return self._scopes.load()

    def working_for(self, owner: object) -> contextlib.AbstractContextManager[None]:
        """While entered, buffers that this thread allocates are those of `owner`."""
        return self._scopes.work_for(owner)

    def measuring(
        self, on_graph: Callable[[int], None]
    ) -> contextlib.AbstractContextManager[Measuring]:
        """While entered, buffers that a context of this thread asks for are not backed."""
        return self._scopes.measure(on_graph)

    def attempt(self, call: Callable[[], T], path: str, undo: Callable[[T], object]) -> T:
        """The result of a call into llama.cpp in this thread's scopes; survives ggml's abort.

        `undo` frees a result that nobody gets.

        Raises:
            ModelFileError: ggml would have ended the process.
            Exception: one that a callback kept.
        """

        def checked() -> T:
            result = call()
            failure = self.take_failure()
            if failure is not None:
                raise failure
            return result

        return self._aborts.survive(self._scopes.taken_along(checked), path, undo)

    def own(self, loading: Loading, runner: Runner) -> None:
        """Graphs that use these weights go to `runner` from now on."""
        with self._lock:
            for weight in loading.weights:
                self._owners[weight.address] = runner

    def disown(self, runner: Runner) -> None:
        with self._lock:
            for address in [a for a, r in self._owners.items() if r is runner]:
                del self._owners[address]

    def _forget(self, weights: Iterable[int]) -> None:
        with self._lock:
            for address in weights:
                self._owners.pop(address, None)

    def take_failure(self) -> BaseException | None:
        """The exception that a callback of this thread kept, once."""
        return self._callbacks.take_failure()

    def buffers(self, owner: object | None = None) -> dict[int, tuple[int, bool]]:
        """Live run-time buffers, those of `owner` or all: address to (bytes, whether it is a
        compute buffer)."""
        return self._buffers.live(owner)

    # -- construction -------------------------------------------------------------------------

    def _build(self) -> None:
        cpu_reg = self._native.ggml_backend_cpu_reg()
        cpu = mirror.Device.from_address(self._native.ggml_backend_reg_dev_get(cpu_reg, 0))
        self._reg = mirror.Reg()
        self._device = mirror.Device()
        self._list = (ctypes.c_void_p * 2)(ctypes.addressof(self._device), None)
        self._guid = (ctypes.c_uint8 * 16)(*b"flexinfer-device")
        self._build_registry()
        self._build_device(cpu)
        self._build_backend_interface()

    def _build_registry(self) -> None:
        name = ctypes.addressof(_NAME)
        self._get_name = self._callbacks.address(mirror.GetName, lambda _: name)
        proc = {
            b"ggml_backend_set_n_threads": self._callbacks.address(
                mirror.SetThreads, self._set_threads
            ),
            b"ggml_backend_set_abort_callback": self._callbacks.address(
                mirror.SetAbortCallback, self._set_abort_callback
            ),
        }
        reg = self._reg
        reg.api_version = mirror.BACKEND_API_VERSION
        reg.iface.get_name = self._get_name
        reg.iface.get_device_count = self._callbacks.address(mirror.GetDeviceCount, lambda _: 1, 0)
        reg.iface.get_device = self._callbacks.address(
            mirror.GetDevice, lambda _reg, _i: self.address
        )
        reg.iface.get_proc_address = self._callbacks.address(
            mirror.GetProcAddress, lambda _reg, name: proc.get(name)
        )

    def _build_device(self, cpu: mirror.Device) -> None:
        device = self._device
        device.reg = ctypes.addressof(self._reg)
        face = device.iface
        face.get_name = self._get_name
        face.get_description = self._get_name
        # get_memory, supports_op and supports_buft are the CPU device's own C functions: they do
        # not look at the device they are given, and stay out of the interpreter.
        face.get_memory = cpu.iface.get_memory
        face.supports_op = cpu.iface.supports_op
        face.supports_buft = cpu.iface.supports_buft
        face.get_type = self._callbacks.address(mirror.GetType, lambda _: mirror.DEVICE_TYPE_CPU, 0)
        face.get_props = self._callbacks.address(mirror.GetProps, self._get_props)
        face.init_backend = self._callbacks.address(mirror.InitBackend, self._init_backend)
        buft = self._buffers.build_type(self.address, self._get_name, self._callbacks)
        face.get_buffer_type = self._callbacks.address(mirror.GetName, lambda _: buft)
        face.get_host_buffer_type = face.get_buffer_type

    def _build_backend_interface(self) -> None:
        self._backend_interface = mirror.BackendInterface()
        self._backend_interface.get_name = self._get_name
        self._backend_interface.free = self._callbacks.address(
            mirror.FreeBuffer, self._free_backend
        )
        self._backend_interface.graph_compute = self._callbacks.address(
            mirror.GraphCompute, self._graph_compute, mirror.STATUS_FAILED
        )
        self._backend_interface.graph_optimize = self._callbacks.address(
            mirror.GraphOptimize, self._graph_optimize
        )

    # -- device callbacks ---------------------------------------------------------------------

    def _get_props(self, _device: int, address: int) -> None:
        props = mirror.DeviceProps.from_address(address)
        props.name = props.description = ctypes.addressof(_NAME)
        props.type = mirror.DEVICE_TYPE_CPU
        props.device_id = None
        props.memory_free = props.memory_total = 0
        props.caps = mirror.DeviceCaps()

    def _init_backend(self, _device: int, _params: bytes | None) -> int:
        inner = InnerBackend(self._native)
        backend = mirror.Backend()
        backend.guid = ctypes.addressof(self._guid)
        backend.iface = self._backend_interface
        backend.device = self.address
        address = ctypes.addressof(backend)
        self._backends[address] = (backend, inner)
        return address

    def _free_backend(self, address: int) -> None:
        self._backends.pop(address)[1].free()

    def _set_threads(self, backend: int, n: int) -> None:
        self._backends[backend][1].set_threads(n)

    def _set_abort_callback(self, backend: int, callback: int, data: int) -> None:
        cpu = self._backends[backend][1].cpu
        self._native.ggml_backend_cpu_set_abort_callback(cpu, callback, data)

    # -- graphs -------------------------------------------------------------------------------

    def _graph_optimize(self, backend: int, graph: int, _params: int) -> None:
        measuring = self._scopes.measuring
        if measuring is not None:
            measuring.on_graph(graph)

    def _graph_compute(self, backend: int, address: int) -> int:
        self.graphs_entered += 1
        inner = self._backends[backend][1]
        graph = CGraph.from_address(address)
        runner = self._runner(graph)
        if runner is None:
            return inner.compute(graph)
        return runner.compute(inner, address)

    def _runner(self, graph: CGraph) -> Runner | None:
        """The owner of the first weight in `graph`; none for graphs that only move KV data."""
        owners = self._owners
        nodes = (ctypes.c_void_p * graph.n_nodes).from_address(graph.nodes)
        for node in nodes:
            for source in Tensor.from_address(node).src:
                if not source:
                    continue
                while source not in owners and (view := Tensor.from_address(source).view_src):
                    source = view
                if source in owners:
                    return owners[source]
        return None


_device: Device | None = None
_device_lock = threading.Lock()


def device() -> Device:
    """The device, registered with ggml on the first call (ggml keeps one registry a process)."""
    global _device
    with _device_lock:
        if _device is None:
            _device = Device(library())
        return _device
