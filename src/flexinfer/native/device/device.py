"""The ggml device: ggml's callbacks on one side, plain Python objects on the other.

llama.cpp hands this device every layer of a model that is loaded inside `Device.loading`, so
each batch arrives in `graph_compute` as one graph with the order of all weights. The device only
translates; what is computed when is decided by the `Runner` that owns the model.

One for a process, as ggml has one registry. Its parts are the modules of this folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

from flexinfer.native import mirror
from flexinfer.native.device.aborts import Aborts, contradiction
from flexinfer.native.device.backends import Backends, InnerBackend
from flexinfer.native.device.buffers import Allocations, Buffers
from flexinfer.native.device.callbacks import Callbacks
from flexinfer.native.device.forks import Forks
from flexinfer.native.device.owners import Owners, Runner
from flexinfer.native.device.phases import Loading, Measuring, Scopes
from flexinfer.native.library import Library, library
from flexinfer.native.mirror import CGraph

T = TypeVar("T")

_NAME = ctypes.create_string_buffer(b"FlexInfer")


class Device:
    """The device of this process; `device()` registers it on first use.

    Args:
        native: the checked library.
    """

    def __init__(self, native: Library) -> None:
        self._native = native
        self._owners = Owners()
        self._callbacks = Callbacks()
        self._scopes = Scopes()
        self._buffers = Buffers(native, self._callbacks, self._scopes, self._owners.forget)
        self._backends = Backends(native, self._compute, self._optimize)
        self.graphs_entered = 0
        self._forks = Forks(self._forget_others)
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
        return self.survive(call, lambda condition: contradiction(path, condition), undo)

    def survive(
        self,
        call: Callable[[], T],
        blame: Callable[[str], Exception],
        undo: Callable[[T], object] = lambda result: None,
        seconds: float | None = None,
        late: Callable[[], object] = lambda: None,
        stack: int = 0,
    ) -> T:
        """The result of a call into llama.cpp that computes nothing: see `Aborts.survive`.

        Raises:
            Exception: what `blame` makes of the condition for which ggml would have ended the
                process, or of a call that takes longer than `seconds`; one that a callback kept.
        """

        def checked() -> T:
            result = call()
            failure = self.take_failure()
            if failure is not None:
                raise failure
            return result

        inside = self._scopes.taken_along(checked)
        return self._aborts.survive(inside, blame, undo, seconds, late, stack)

    @property
    def forked(self) -> bool:
        """Whether this process was forked from one that had the device."""
        return self._forks.forked

    def in_living_thread(self, call: Callable[[], T]) -> T:
        """The result of `call`, which computes; in another thread where this one would hang."""
        return self._forks.in_living_thread(self._scopes.taken_along(call))

    def _forget_others(self) -> None:
        self._owners.forget_others()
        self._scopes.forget_others()
        self._buffers.forget_others()
        # Its ledger counts the models of the process that was forked.
        self._buffers.allocations = None

    def own(self, loading: Loading, runner: Runner) -> None:
        """Graphs that use these weights go to `runner` from now on."""
        self._owners.add((weight.address for weight in loading.weights), runner)

    def own_others(self, runner: Runner) -> None:
        """Graphs that use no weights of anybody go to `runner` from now on."""
        self._owners.default = runner

    def disown(self, runner: Runner) -> None:
        self._owners.remove(runner)

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
        cpu = mirror.BackendDevice.from_address(self._native.ggml_backend_reg_dev_get(cpu_reg, 0))
        self._reg = mirror.Reg()
        self._device = mirror.BackendDevice()
        self._build_registry()
        self._build_device(cpu)

    def _build_registry(self) -> None:
        name = ctypes.addressof(_NAME)
        self._get_name = self._callbacks.address(mirror.GetName, lambda _: name)
        proc = {
            b"ggml_backend_set_n_threads": self._callbacks.address(
                mirror.SetThreads, self._backends.set_threads
            ),
            b"ggml_backend_set_abort_callback": self._callbacks.address(
                mirror.SetAbortCallback, self._backends.set_abort_callback
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

    def _build_device(self, cpu: mirror.BackendDevice) -> None:
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
        face.init_backend = self._backends.build(self.address, self._get_name, self._callbacks)
        buft = self._buffers.build_type(self.address, self._get_name, self._callbacks)
        face.get_buffer_type = self._callbacks.address(mirror.GetName, lambda _: buft)
        face.get_host_buffer_type = face.get_buffer_type

    # -- device callbacks ---------------------------------------------------------------------

    def _get_props(self, _device: int, address: int) -> None:
        props = mirror.DeviceProps.from_address(address)
        props.name = props.description = ctypes.addressof(_NAME)
        props.type = mirror.DEVICE_TYPE_CPU
        props.device_id = None
        props.memory_free = props.memory_total = 0
        props.caps = mirror.DeviceCaps()

    # -- graphs -------------------------------------------------------------------------------

    def _optimize(self, graph: int) -> None:
        measuring = self._scopes.measuring
        if measuring is not None:
            measuring.on_graph(graph)

    def _compute(self, inner: InnerBackend, address: int) -> int:
        self.graphs_entered += 1
        graph = CGraph.from_address(address)
        runner = self._owners.of(graph)
        if runner is None:
            return inner.compute(graph)
        return runner.compute(inner, address)


_device: Device | None = None
_device_lock = threading.Lock()


def device() -> Device:
    """The device, registered with ggml on the first call (ggml keeps one registry a process)."""
    global _device
    if _device is None:  # else without the lock, which a fork would leave held for ever
        with _device_lock:
            _device = _device or Device(library())
    return _device
