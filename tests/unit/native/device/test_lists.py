"""How llama.cpp divides layers by the shares it is given: as many to each as was planned."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from flexinfer.native.device.lists import DeviceList


def layers_of_each(split: list[float]) -> list[int]:
    """``get_layer_buft_list`` of llama-model.cpp, in the floats it computes with."""
    ends = np.cumsum(np.array(split, np.float32), dtype=np.float32)
    ends /= ends[-1]
    layers = round(sum(split))
    found = [0] * len(split)
    for layer in range(layers):
        found[int(np.searchsorted(ends, np.float32(layer) / np.float32(layers), "right"))] += 1
    return found


@pytest.mark.parametrize("layers", [5, 33, 41, 81, 127])
def test_each_device_gets_its_layers(layers: int) -> None:
    for here in range(layers + 1):
        for middle in range(layers - here + 1):
            counts = [here, middle, layers - here - middle]
            params = SimpleNamespace(devices=None, tensor_split=None)
            listed = DeviceList([8, 16, 24], counts, 16)
            listed.set(params)
            shares = ctypes.cast(params.tensor_split, ctypes.POINTER(ctypes.c_float))
            assert layers_of_each(shares[:3]) == counts
            array = (ctypes.c_void_p * 4).from_address(params.devices)
            assert list(array) == [8, 16, 24, None]


def test_one_device_has_all_of_them() -> None:
    params = SimpleNamespace(devices=None, tensor_split=None)
    DeviceList([8], [1], 16).set(params)
    assert params.tensor_split is None
