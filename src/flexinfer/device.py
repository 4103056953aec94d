"""The ggml device: ggml's callbacks on one side, plain Python objects on the other.

llama.cpp hands this device every layer of a model that is loaded inside `Device.loading`, so
each batch arrives in `graph_compute` as one graph with the order of all weights. The device only
translates; what is computed when is decided by the `Runner` that owns the model.

Invariants: no exception leaves a callback (ggml would go on with garbage), `init_tensor` acts
only on weight buffers, and scopes belong to the thread that entered them.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from flexinfer import _ggml
from flexinfer._ggml import Buffer, BufferInterface, CGraph, Tensor
from flexinfer.aborts import Aborts

T = TypeVar("T")

_NAME = ctypes.create_string_buffer(b"FlexInfer")


@dataclass(frozen=True)
class WeightTensor:
    """One weight as ggml knows it: its tensor's address, its name and its shape."""

    address: int
    name: str
    shape: tuple[int, int, int, int]
    nbytes: int


@dataclass
class Loading:
    """What one `llama_model_load_from_file` declared; no weight was read."""

    weights: list[WeightTensor] = field(default_factory=list)

    def restore_shapes(self) -> None:
        """Undo the empty shapes that kept llama.cpp's loader from reading."""
        for weight in self.weights:
            Tensor.from_address(weight.address).ne[0] = weight.shape[0]


@dataclass
class Measuring:
    """Sizes that a context asks for, in bytes, collected without allocating anything.

    `on_graph` sees each graph that llama.cpp reserves, as an address, while it is valid.
    """

    on_graph: Callable[[int], None]
    compute: int = 0
    other: int = 0
    buffers: list[int] = field(default_factory=list)

    def collect(self) -> None:
        """Sort the sizes of the buffers that exist by what ggml uses them for."""
        for address in self.buffers:
            buffer = Buffer.from_address(address)
            if buffer.usage == _ggml.USAGE_COMPUTE:
                self.compute += buffer.size
            else:
                self.other += buffer.size


class InnerBackend:
    """One ggml backend that llama.cpp created, with the CPU backend that does its work."""

    def __init__(self, native: _ggml.Library) -> None:
        self._native = native
        self.cpu: int = native.ggml_backend_cpu_init()
        self.programs: dict[int, Any] = {}

    def set_threads(self, n: int) -> None:
        self._native.ggml_backend_cpu_set_n_threads(self.cpu, n)

    def compute(self, graph: CGraph) -> int:
        """Compute all nodes of `graph`; returns a ggml status."""
        return int(self._native.ggml_backend_graph_compute(self.cpu, ctypes.addressof(graph)))

    def free(self) -> None:
        self.programs.clear()
        self._native.ggml_backend_free(self.cpu)


def work_size(graph: CGraph, threads: int) -> int:
    """Bytes of scratch memory that a CPU backend of so many threads needs for `graph`."""
    plan = _ggml.library().ggml_graph_plan(ctypes.addressof(graph), threads, None)
    return int(plan.work_size)


class Runner(Protocol):
    """Owner of a model's weights: computes graphs that use them."""

    def compute(self, backend: InnerBackend, graph: int) -> int:
        """Compute the graph at that address; returns a ggml status, may raise."""


class Allocations(Protocol):
    """Is asked before memory is allocated at run time, and told when it was freed."""

    def allocating(self, nbytes: int) -> None:
        """May raise to refuse."""

    def freed(self, nbytes: int) -> None: ...


class Device:
    """The device of this process; `device()` registers it on first use.

    Args:
        native: the checked library.

    `allocations` is asked before any run-time buffer (KV cache, compute buffer, adapter) of any
    model on the device is allocated.
    """

    def __init__(self, native: _ggml.Library) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._loading_lock = threading.Lock()
        self._local = threading.local()
        self._owners: dict[int, Runner] = {}
        self._weight_buffers: dict[int, tuple[int, int, list[int]]] = {}
        self._run_time: dict[int, tuple[int, Allocations | None, int]] = {}
        self._backends: dict[int, tuple[_ggml.Backend, InnerBackend]] = {}
        self._failures: dict[int, BaseException] = {}
        self.allocations: Allocations | None = None
        self.graphs_entered = 0
        self._aborts = Aborts()
        self._build()
        native.ggml_backend_register(ctypes.addressof(self._reg))

    def __repr__(self) -> str:
        return (
            f"<Device {len(self._owners)} weights, {len(self._backends)} backends, "
            f"{len(self._run_time)} buffers>"
        )

    @property
    def address(self) -> int:
        """The ``ggml_backend_dev_t`` to name in ``llama_model_params.devices``."""
        return ctypes.addressof(self._device)

    @property
    def device_list(self) -> int:
        """A NULL-terminated array with this device alone."""
        return ctypes.addressof(self._list)

    # -- scopes -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def loading(self) -> Iterator[Loading]:
        """While entered, weight buffers of this thread are address space and nothing is read.

        One load at a time in a process: llama.cpp's own loader is not reentrant about devices.
        """
        with self._loading_lock:
            loading = Loading()
            self._local.loading = loading
            try:
                yield loading
            finally:
                self._local.loading = None
                loading.restore_shapes()

    @contextlib.contextmanager
    def measuring(self, on_graph: Callable[[int], None]) -> Iterator[Measuring]:
        """While entered, buffers that a context of this thread asks for are not backed."""
        measuring = Measuring(on_graph)
        self._local.measuring = measuring
        try:
            yield measuring
        finally:
            self._local.measuring = None

    def attempt(self, call: Callable[[], T], path: str, undo: Callable[[T], object]) -> T:
        """The result of a call into llama.cpp in this thread's scopes; survives ggml's abort.

        `undo` frees a result that nobody gets.

        Raises:
            ModelFileError: ggml would have ended the process.
            Exception: one that a callback kept.
        """
        scopes = dict(vars(self._local))

        def inside() -> T:
            vars(self._local).update(scopes)
            result = call()
            failure = self.take_failure()
            if failure is not None:
                raise failure
            return result

        return self._aborts.survive(inside, path, undo)

    def own(self, loading: Loading, runner: Runner) -> None:
        """Graphs that use these weights go to `runner` from now on."""
        with self._lock:
            for weight in loading.weights:
                self._owners[weight.address] = runner

    def disown(self, runner: Runner) -> None:
        with self._lock:
            for address in [a for a, r in self._owners.items() if r is runner]:
                del self._owners[address]

    def take_failure(self) -> BaseException | None:
        """The exception that a callback of this thread kept, once."""
        return self._failures.pop(threading.get_ident(), None)

    def buffers(self) -> dict[int, tuple[int, bool]]:
        """Live run-time buffers: address to (bytes, whether it is a compute buffer)."""
        with self._lock:
            return {
                address: (nbytes, Buffer.from_address(address).usage == _ggml.USAGE_COMPUTE)
                for address, (nbytes, _, _) in self._run_time.items()
            }

    # -- construction -------------------------------------------------------------------------

    def _build(self) -> None:
        cpu_buft = _ggml.BufferType.from_address(self._native.ggml_backend_cpu_buffer_type())
        cpu_reg = self._native.ggml_backend_cpu_reg()
        cpu = _ggml.Device.from_address(self._native.ggml_backend_reg_dev_get(cpu_reg, 0))
        self._cpu_buft = cpu_buft
        self._cpu_alloc = _ggml.AllocBuffer(cpu_buft.iface.alloc_buffer)
        self._callbacks: list[Any] = []
        self._reg = _ggml.Reg()
        self._device = _ggml.Device()
        self._buft = _ggml.BufferType()
        self._list = (ctypes.c_void_p * 2)(ctypes.addressof(self._device), None)
        self._guid = (ctypes.c_uint8 * 16)(*b"flexinfer-device")
        self._build_registry()
        self._build_device(cpu)
        self._build_buffer_type(cpu_buft)
        self._build_interfaces()

    def _callback(self, kind: Any, function: Callable[..., Any], failure: Any = None) -> int:
        """The C address of `function`, guarded: on an exception it is kept, `failure` returned."""

        def guarded(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException as error:  # nothing may pass into C
                self._failures[threading.get_ident()] = error
                return failure

        callback = kind(guarded)
        self._callbacks.append(callback)
        return ctypes.cast(callback, ctypes.c_void_p).value or 0

    def _build_registry(self) -> None:
        name = ctypes.addressof(_NAME)
        self._get_name = self._callback(_ggml.GetName, lambda _: name)
        proc = {
            b"ggml_backend_set_n_threads": self._callback(_ggml.SetThreads, self._set_threads),
            b"ggml_backend_set_abort_callback": self._callback(
                _ggml.SetAbortCallback, self._set_abort_callback
            ),
        }
        reg = self._reg
        reg.api_version = _ggml.BACKEND_API_VERSION
        reg.iface.get_name = self._get_name
        reg.iface.get_device_count = self._callback(_ggml.GetDeviceCount, lambda _: 1, 0)
        reg.iface.get_device = self._callback(_ggml.GetDevice, lambda _reg, _i: self.address)
        reg.iface.get_proc_address = self._callback(
            _ggml.GetProcAddress, lambda _reg, name: proc.get(name)
        )

    def _build_device(self, cpu: _ggml.Device) -> None:
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
        face.get_type = self._callback(_ggml.GetType, lambda _: _ggml.DEVICE_TYPE_CPU, 0)
        face.get_props = self._callback(_ggml.GetProps, self._get_props)
        face.init_backend = self._callback(_ggml.InitBackend, self._init_backend)
        buft = ctypes.addressof(self._buft)
        face.get_buffer_type = self._callback(_ggml.GetName, lambda _: buft)
        face.get_host_buffer_type = face.get_buffer_type

    def _build_buffer_type(self, cpu_buft: _ggml.BufferType) -> None:
        buft = self._buft
        buft.device = self.address
        buft.iface.get_name = self._get_name
        buft.iface.alloc_buffer = self._callback(_ggml.AllocBuffer, self._alloc_buffer)
        buft.iface.get_alignment = cpu_buft.iface.get_alignment
        buft.iface.is_host = cpu_buft.iface.is_host

    def _build_interfaces(self) -> None:
        nothing = self._callback(_ggml.AccessTensor, lambda *_: None)
        unbacked = BufferInterface()
        unbacked.get_base = self._callback(
            _ggml.GetBase, lambda buffer: Buffer.from_address(buffer).context
        )
        unbacked.memset_tensor = self._callback(_ggml.MemsetTensor, lambda *_: None)
        unbacked.set_tensor = nothing
        unbacked.get_tensor = nothing
        unbacked.clear = self._callback(_ggml.Clear, lambda *_: None)
        self._measured_interface = BufferInterface.from_buffer_copy(unbacked)
        self._measured_interface.free_buffer = self._callback(_ggml.FreeBuffer, self._free_measured)
        self._weight_interface = BufferInterface.from_buffer_copy(unbacked)
        self._weight_interface.free_buffer = self._callback(_ggml.FreeBuffer, self._free_weights)
        self._weight_interface.init_tensor = self._callback(
            _ggml.InitTensor, self._init_weight, _ggml.STATUS_FAILED
        )
        self._free_run_time_callback = self._callback(_ggml.FreeBuffer, self._free_run_time)
        self._backend_interface = _ggml.BackendInterface()
        self._backend_interface.get_name = self._get_name
        self._backend_interface.free = self._callback(_ggml.FreeBuffer, self._free_backend)
        self._backend_interface.graph_compute = self._callback(
            _ggml.GraphCompute, self._graph_compute, _ggml.STATUS_FAILED
        )
        self._backend_interface.graph_optimize = self._callback(
            _ggml.GraphOptimize, self._graph_optimize
        )

    # -- device callbacks ---------------------------------------------------------------------

    def _get_props(self, _device: int, address: int) -> None:
        props = _ggml.DeviceProps.from_address(address)
        props.name = props.description = ctypes.addressof(_NAME)
        props.type = _ggml.DEVICE_TYPE_CPU
        props.device_id = None
        props.memory_free = props.memory_total = 0
        props.caps = _ggml.DeviceCaps()

    def _init_backend(self, _device: int, _params: bytes | None) -> int:
        inner = InnerBackend(self._native)
        backend = _ggml.Backend()
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

    # -- buffers ------------------------------------------------------------------------------

    def _alloc_buffer(self, _buft: int, nbytes: int) -> int | None:
        if getattr(self._local, "loading", None) is not None:
            return self._alloc_weights(nbytes)
        measuring: Measuring | None = getattr(self._local, "measuring", None)
        if measuring is not None:
            return self._alloc_measured(measuring, nbytes)
        return self._alloc_run_time(nbytes)

    def _alloc_unbacked(self, interface: BufferInterface, nbytes: int) -> int:
        base = _ggml.reserve_address_space(max(nbytes, 1))
        return int(
            self._native.ggml_backend_buffer_init(
                ctypes.addressof(self._buft), interface, base, nbytes
            )
        )

    def _alloc_weights(self, nbytes: int) -> int:
        address = self._alloc_unbacked(self._weight_interface, nbytes)
        base = Buffer.from_address(address).context
        self._weight_buffers[address] = (base, nbytes, [])
        return address

    def _init_weight(self, buffer: int, address: int) -> int:
        loading: Loading | None = getattr(self._local, "loading", None)
        tensor = Tensor.from_address(address)
        if loading is None or tensor.view_src:
            return _ggml.STATUS_SUCCESS
        nbytes = int(self._native.ggml_nbytes(address))
        shape = tuple(tensor.ne)
        loading.weights.append(WeightTensor(address, tensor.name.decode(), shape, nbytes))
        self._weight_buffers[buffer][2].append(address)
        tensor.ne[0] = 0
        return _ggml.STATUS_SUCCESS

    def _free_weights(self, buffer: int) -> None:
        base, nbytes, tensors = self._weight_buffers.pop(buffer)
        loading: Loading | None = getattr(self._local, "loading", None)
        gone = set(tensors)
        if loading is not None:  # a load that failed frees its tensors before it returns
            loading.weights = [w for w in loading.weights if w.address not in gone]
        with self._lock:
            for address in tensors:
                self._owners.pop(address, None)
        _ggml.release_address_space(base, max(nbytes, 1))

    def _alloc_measured(self, measuring: Measuring, nbytes: int) -> int:
        address = self._alloc_unbacked(self._measured_interface, nbytes)
        measuring.buffers.append(address)
        return address

    def _free_measured(self, address: int) -> None:
        measuring: Measuring | None = getattr(self._local, "measuring", None)
        if measuring is not None and address in measuring.buffers:
            measuring.buffers.remove(address)
        buffer = Buffer.from_address(address)
        _ggml.release_address_space(buffer.context, max(buffer.size, 1))

    def _alloc_run_time(self, nbytes: int) -> int | None:
        allocations = self.allocations
        if allocations is not None:
            allocations.allocating(nbytes)
        address = self._cpu_alloc(ctypes.addressof(self._cpu_buft), nbytes)
        if not address:
            if allocations is not None:
                allocations.freed(nbytes)
            return None
        buffer = Buffer.from_address(address)
        with self._lock:
            self._run_time[address] = (nbytes, allocations, buffer.iface.free_buffer)
        buffer.iface.free_buffer = self._free_run_time_callback
        buffer.buft = ctypes.addressof(self._buft)
        return int(address)

    def _free_run_time(self, address: int) -> None:
        with self._lock:
            nbytes, allocations, free = self._run_time.pop(address)
        _ggml.FreeBuffer(free)(address)
        if allocations is not None:
            allocations.freed(nbytes)

    # -- graphs -------------------------------------------------------------------------------

    def _graph_optimize(self, backend: int, graph: int, _params: int) -> None:
        measuring: Measuring | None = getattr(self._local, "measuring", None)
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
            _device = Device(_ggml.library())
        return _device
