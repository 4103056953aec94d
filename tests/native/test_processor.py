"""The probe of the processor, with the real kernels."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from flexinfer.gguf.estimate import KV_TYPES
from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.native.packing import packer
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.attention import measure_attention
from flexinfer.rates.processor import measure_types
from flexinfer.rates.type_rates import Product

KINDS = {kind.name: kind for kind in QUANT_TYPES.values()}
PRODUCTS = [
    Product(KINDS["q4_0"]),
    Product(KINDS["q4_0"], routed=True),
    Product(KINDS["f16"]),
    Product(KINDS["f16"], routed=True),
]


@pytest.mark.parametrize("kernels", Kernels)
def test_each_product_has_rates(kernels: Kernels) -> None:
    found = measure_types(PRODUCTS, 2, kernels, 1 << 20)
    assert list(found) == ["q4_0", "q4_0 by expert", "f16", "f16 by expert"]
    packs = kernels is Kernels.PACKED and packer() is not None
    for name, rates in found.items():
        assert 0 < rates.row < math.inf, name
        assert 0 < rates.rows < math.inf, name
        assert (rates.packing > 0) is (packs and name.startswith("q4_0")), name


@pytest.mark.parametrize("kind", KV_TYPES)
def test_attention_to_each_cache_takes_time(kind: str) -> None:
    found = measure_attention((KV_TYPES[kind], KV_TYPES[kind]), 2, (1, 3))
    assert len(found) == 2
    assert all(0 < seconds < math.inf for seconds in found)


def test_it_says_nothing() -> None:
    probe = (
        "from flexinfer.gguf.types import QUANT_TYPES\n"
        "from flexinfer.planning.kernels import Kernels\n"
        "from flexinfer.rates.processor import measure_types\n"
        "from flexinfer.rates.type_rates import Product\n"
        "kinds = [Product(k) for k in QUANT_TYPES.values() if k.name == 'q4_0']\n"
        "print(len(measure_types(kinds, 1, Kernels.PACKED, 1 << 20)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
