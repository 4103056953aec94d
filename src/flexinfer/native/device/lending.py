"""The device lent to others: what it says of its memory, and who computes what nobody here owns."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from flexinfer.native import mirror
from flexinfer.native.device.device import Device


class Lending:
    """Has `device` answer who asks for its memory: with (free, total) in bytes."""

    def __init__(self, device: Device, memory: Callable[[], tuple[int, int]]) -> None:
        def answer(_device: int, free: Any, total: Any) -> None:
            free[0], total[0] = memory()

        self._callback = mirror.GetMemory(answer)
        place = mirror.BackendDevice.from_address(device.address)
        place.iface.get_memory = ctypes.cast(self._callback, ctypes.c_void_p).value or 0
