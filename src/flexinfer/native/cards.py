"""Graphics cards that the installed llama.cpp has a backend for."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from flexinfer.native.library import library

# ``GGML_BACKEND_DEVICE_TYPE_GPU`` and its kind that shares the host's memory.
_CARDS = (1, 2)


@dataclass(frozen=True)
class Card:
    """A ggml device with memory of its own: its ``ggml_backend_dev_t``, and bytes that are free."""

    name: str
    address: int
    free: int


def cards() -> list[Card]:
    """All of them, in ggml's order; none where llama.cpp was installed without a backend."""
    native = library()
    devices = [native.ggml_backend_dev_get(at) for at in range(native.ggml_backend_dev_count())]
    found = []
    for address in devices:
        if native.ggml_backend_dev_type(address) in _CARDS:
            name = native.ggml_backend_dev_name(address).decode("utf-8", "replace")
            found.append(Card(name, address, free_memory(address)))
    return found


def free_memory(device: int) -> int:
    """Bytes that a ``ggml_backend_dev_t`` says are free."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    places = ctypes.addressof(free), ctypes.addressof(total)
    library().ggml_backend_dev_memory(device, *places)
    return free.value
