"""Buffers that the device hands to llama.cpp: address space for weights, memory at run time.

While a model loads, a buffer has addresses and no memory, so nothing can be read into it; while a
context is measured, so do its caches, and only sizes are noted. All others are ggml's own
processor buffers, which the ledger hears of before they exist.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from flexinfer.memory.address_space import release_address_space, reserve_address_space
from flexinfer.native import mirror
from flexinfer.native.device.callbacks import Callbacks
from flexinfer.native.device.phases import Measuring, Scopes, WeightTensor
from flexinfer.native.mirror import Buffer, BufferInterface, Tensor


class Allocations(Protocol):
    """Is asked before memory is allocated at run time, and told when it was freed."""

    def allocating(self, nbytes: int) -> None:
        """May raise to refuse."""

    def freed(self, nbytes: int) -> None: ...


class Buffers:
    """All buffers of the device, and the buffer type that makes them.

    Args:
        native: the checked library.
        callbacks: keeps what is called from C.
        scopes: of the threads that call.
        forget: is told the addresses of weights that no longer exist.

    `allocations` is asked before any run-time buffer (KV cache, compute buffer, adapter) of any
    model is allocated.
    """

    def __init__(
        self,
        native: Any,
        callbacks: Callbacks,
        scopes: Scopes,
        forget: Callable[[Iterable[int]], None],
    ) -> None:
        self.allocations: Allocations | None = None
        self._native = native
        self._scopes = scopes
        self._forget = forget
        self.forget_others()
        self._weights: dict[int, tuple[int, int, list[int]]] = {}
        self._run_time: dict[int, tuple[int, object, Allocations | None, int]] = {}
        self._cpu_type = mirror.BufferType.from_address(native.ggml_backend_cpu_buffer_type())
        self._cpu_alloc = mirror.AllocBuffer(self._cpu_type.iface.alloc_buffer)
        self._type = mirror.BufferType()
        self._build_interfaces(callbacks)

    def forget_others(self) -> None:
        """In a process that was forked: a lock that another thread held is held for ever."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._run_time)

    def build_type(self, device: int, get_name: int, callbacks: Callbacks) -> int:
        """Fill in the buffer type of the device at that address; returns the type's own."""
        kind = self._type
        kind.device = device
        kind.iface.get_name = get_name
        kind.iface.alloc_buffer = callbacks.address(mirror.AllocBuffer, self._alloc)
        kind.iface.get_alignment = self._cpu_type.iface.get_alignment
        kind.iface.is_host = self._cpu_type.iface.is_host
        return ctypes.addressof(kind)

    def live(self, owner: object | None = None) -> dict[int, tuple[int, bool]]:
        """Live run-time buffers, those of `owner` or all: address to (bytes, whether it is a
        compute buffer)."""
        with self._lock:
            return {
                address: (nbytes, Buffer.from_address(address).usage == mirror.USAGE_COMPUTE)
                for address, (nbytes, whose, _, _) in self._run_time.items()
                if owner is None or whose is owner
            }

    def _build_interfaces(self, callbacks: Callbacks) -> None:
        nothing = callbacks.address(mirror.AccessTensor, lambda *_: None)
        unbacked = BufferInterface()
        unbacked.get_base = callbacks.address(
            mirror.GetBase, lambda buffer: Buffer.from_address(buffer).context
        )
        unbacked.memset_tensor = callbacks.address(mirror.MemsetTensor, lambda *_: None)
        unbacked.set_tensor = nothing
        unbacked.get_tensor = nothing
        unbacked.clear = callbacks.address(mirror.Clear, lambda *_: None)
        self._measured_interface = BufferInterface.from_buffer_copy(unbacked)
        self._measured_interface.free_buffer = callbacks.address(
            mirror.FreeBuffer, self._free_measured
        )
        self._weight_interface = BufferInterface.from_buffer_copy(unbacked)
        self._weight_interface.free_buffer = callbacks.address(
            mirror.FreeBuffer, self._free_weights
        )
        self._weight_interface.init_tensor = callbacks.address(
            mirror.InitTensor, self._init_weight, mirror.STATUS_FAILED
        )
        self._free_run_time_callback = callbacks.address(mirror.FreeBuffer, self._free_run_time)

    def _alloc(self, _type: int, nbytes: int) -> int | None:
        if self._scopes.loading is not None:
            return self._alloc_weights(nbytes)
        measuring = self._scopes.measuring
        if measuring is not None:
            return self._alloc_measured(measuring, nbytes)
        return self._alloc_run_time(nbytes)

    def _alloc_unbacked(self, interface: BufferInterface, nbytes: int) -> int:
        base = reserve_address_space(max(nbytes, 1))
        return int(
            self._native.ggml_backend_buffer_init(
                ctypes.addressof(self._type), interface, base, nbytes
            )
        )

    # -- weights ------------------------------------------------------------------------------

    def _alloc_weights(self, nbytes: int) -> int:
        address = self._alloc_unbacked(self._weight_interface, nbytes)
        base = Buffer.from_address(address).context
        self._weights[address] = (base, nbytes, [])
        return address

    def _init_weight(self, buffer: int, address: int) -> int:
        loading = self._scopes.loading
        tensor = Tensor.from_address(address)
        if loading is None or tensor.view_src:
            return mirror.STATUS_SUCCESS
        nbytes = int(self._native.ggml_nbytes(address))
        shape = tuple(tensor.ne)
        loading.weights.append(WeightTensor(address, tensor.name.decode(), shape, nbytes))
        self._weights[buffer][2].append(address)
        tensor.ne[0] = 0
        return mirror.STATUS_SUCCESS

    def _free_weights(self, buffer: int) -> None:
        base, nbytes, tensors = self._weights.pop(buffer)
        loading = self._scopes.loading
        gone = set(tensors)
        if loading is not None:  # a load that failed frees its tensors before it returns
            loading.weights = [w for w in loading.weights if w.address not in gone]
        self._forget(tensors)
        release_address_space(base, max(nbytes, 1))

    # -- contexts that are only measured ------------------------------------------------------

    def _alloc_measured(self, measuring: Measuring, nbytes: int) -> int:
        address = self._alloc_unbacked(self._measured_interface, nbytes)
        measuring.buffers.append(address)
        return address

    def _free_measured(self, address: int) -> None:
        measuring = self._scopes.measuring
        if measuring is not None and address in measuring.buffers:
            measuring.buffers.remove(address)
        buffer = Buffer.from_address(address)
        release_address_space(buffer.context, max(buffer.size, 1))

    # -- run time -----------------------------------------------------------------------------

    def _alloc_run_time(self, nbytes: int) -> int | None:
        allocations = self.allocations
        if allocations is not None:
            allocations.allocating(nbytes)
        address = self._cpu_alloc(ctypes.addressof(self._cpu_type), nbytes)
        if not address:
            if allocations is not None:
                allocations.freed(nbytes)
            return None
        buffer = Buffer.from_address(address)
        with self._lock:
            self._run_time[address] = (
                nbytes,
                self._scopes.owner,
                allocations,
                buffer.iface.free_buffer,
            )
        buffer.iface.free_buffer = self._free_run_time_callback
        buffer.buft = ctypes.addressof(self._type)
        return int(address)

    def _free_run_time(self, address: int) -> None:
        with self._lock:
            nbytes, _, allocations, free = self._run_time.pop(address)
        mirror.FreeBuffer(free)(address)
        if allocations is not None:
            allocations.freed(nbytes)
