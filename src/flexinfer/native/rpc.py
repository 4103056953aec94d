"""llama.cpp's RPC backend: devices that are memory of other machines, and serving ours to them.

Compiled from the pinned source with a transport of ours (``server-build/rpc``): every wait has a
limit, and a connection that is lost answers zeros instead of ending the process. Whether one is
lost has to be asked after each call that may have used it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_bool, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from flexinfer.errors import WorkerError
from flexinfer.native.built import open_built
from flexinfer.native.cards import free_memory
from flexinfer.native.library import library

LIBRARY = Path(__file__).with_name("libflexinfer-rpc.so")

_Admit = CFUNCTYPE(c_bool, c_uint64)
_Client = CFUNCTYPE(None, c_char_p, c_int)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "flexinfer_rpc_lost": (c_char_p, [c_char_p]),
    "flexinfer_rpc_drop": (None, [c_char_p, c_char_p]),
    "flexinfer_rpc_refuse": (None, []),
    "ggml_backend_rpc_add_server": (c_void_p, [c_char_p]),
    "ggml_backend_rpc_start_server": (
        None,
        [c_char_p, c_char_p, c_size_t, c_size_t, c_void_p],
    ),
}


class Rpc:
    """The backend in this process; `rpc()` opens it.

    Raises:
        UnsupportedError: it was not built, or from another version than is installed.
    """

    def __init__(self) -> None:
        library()  # what the backend is linked to
        self._native = open_built(LIBRARY, "RPC backend", "flexinfer_rpc_source")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._native, name)
            function.restype, function.argtypes = result, arguments
        self._anew()
        os.register_at_fork(after_in_child=self._anew)
        self._devices: dict[str, int] = {}
        self._kept: list[Any] = []

    def _anew(self) -> None:
        """A lock that another thread held is held for ever in a process that was forked."""
        self._lock = threading.Lock()

    def device(self, endpoint: str) -> int:
        """The ``ggml_backend_dev_t`` of a worker's memory.

        Raises:
            WorkerError: it does not answer as a worker.
        """
        with self._lock:
            known = self._devices.get(endpoint)
            if known is None:
                registry = self._native.ggml_backend_rpc_add_server(endpoint.encode())
                if not registry:
                    reason = self.lost(endpoint) or "it has no device"
                    raise WorkerError(f"worker {endpoint}: {reason}")
                known = int(library().ggml_backend_reg_dev_get(registry, 0))
                self._devices[endpoint] = known
            return known

    def free(self, endpoint: str) -> int:
        """Bytes that a worker has left; 0 once it is lost."""
        return free_memory(self.device(endpoint))

    def lost(self, endpoint: str) -> str | None:
        """Why the connection to a worker is lost; None while it is not."""
        reason = self._native.flexinfer_rpc_lost(endpoint.encode())
        return reason.decode() if reason else None

    def drop(self, endpoint: str, reason: str) -> None:
        """Give up the connection to a worker, whatever waits for it."""
        self._native.flexinfer_rpc_drop(endpoint.encode(), reason.encode())

    def serve(
        self,
        endpoint: str,
        cache: str | None,
        threads: int,
        device: int,
        admit: Callable[[int], bool],
        client: Callable[[str, bool], None],
    ) -> None:
        """Serve a device to one client after the other; returns only where nobody can be served.

        Args:
            cache: a folder for large tensors, by what is in them.
            device: a ``ggml_backend_dev_t``.
            admit: whether a message of so many bytes may come in.
            client: is told the address of a client that comes, or goes.
        """
        calls = (_Admit(admit), _Client(lambda at, came: client(at.decode(), bool(came))))
        names = ("flexinfer_rpc_admit", "flexinfer_rpc_client")
        for name, call in zip(names, calls, strict=True):
            place = c_void_p.in_dll(self._native, name)
            place.value = ctypes.cast(call, c_void_p).value
        devices = (c_void_p * 1)(device)
        self._kept = [*calls, devices]
        self._native.ggml_backend_rpc_start_server(
            endpoint.encode(),
            cache.encode() if cache else None,
            *(threads, 1, ctypes.addressof(devices)),
        )

    def refuse(self) -> None:
        """End the connection of the client that is served."""
        self._native.flexinfer_rpc_refuse()


@lru_cache(maxsize=1)
def rpc() -> Rpc:
    """The backend of this process.

    Raises:
        UnsupportedError: it was not built, or from another version than is installed.
    """
    return Rpc()
