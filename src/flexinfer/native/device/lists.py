"""The devices that share a model, and how many of its layers each gets, as llama.cpp takes both."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

# Between two whole numbers: where llama.cpp compares, rounding must not decide.
_BETWEEN = 0.5


class DeviceList:
    """What `llama_model_params` has of devices; kept as long as the model is being loaded.

    Args:
        devices: each a ``ggml_backend_dev_t``, in the order of the layers.
        layers: of each device, whose sum is the number of layers and one, for the output.
        slots: numbers in ``tensor_split``: ``llama_max_devices()``.
    """

    def __init__(self, devices: Sequence[int], layers: Sequence[int], slots: int) -> None:
        self._devices = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
        self._split = (ctypes.c_float * max(slots, len(devices)))(*_thresholds(layers))

    def set(self, params: Any) -> None:
        """Put both into ``llama_model_params``."""
        params.devices = ctypes.addressof(self._devices)
        if len(self._devices) > 2:
            params.tensor_split = ctypes.cast(self._split, ctypes.POINTER(ctypes.c_float))


def _thresholds(layers: Sequence[int]) -> list[float]:
    """Shares whose sums lie between two layers.

    llama.cpp gives layer i of n to the first device whose shares, with all before, come to more
    than i/n (``get_layer_buft_list`` of llama-model.cpp).
    """
    ends = [max(sum(layers[: at + 1]) - _BETWEEN, 0.0) for at in range(len(layers))]
    ends[-1] = float(sum(layers))
    return [end - before for end, before in zip(ends, [0.0, *ends], strict=False)]
