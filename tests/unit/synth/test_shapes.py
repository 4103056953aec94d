"""Shapes of synthetic models: the published counts, rows that divide into blocks."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.synth.blocks import QUANTS
from flexinfer.synth.shapes import PRESETS, weights

QUANT = {t.name: t for t in QUANT_TYPES.values()}


@pytest.mark.parametrize(
    ("preset", "billions"),
    [
        ("llama2-7b", 6.74),
        ("llama2-13b", 13.02),
        ("llama2-70b", 68.98),
        ("codellama-34b", 33.74),
        ("llama3-8b", 8.03),
        ("llama3-1b", 1.24),
        ("qwen3-8b", 8.19),
        ("qwen3-30b-a3b", 30.53),
        ("tinyllama-1.1b", 1.10),
    ],
)
def test_presets_have_the_published_parameter_counts(preset: str, billions: float) -> None:
    count = sum(w.rows * w.shape[0] for w in weights(PRESETS[preset], QUANT["q4_0"]))
    assert count / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_rows_divide_into_blocks(preset: str, quant: str) -> None:
    for weight in weights(PRESETS[preset], QUANT[quant]):
        assert weight.shape[0] % weight.type.block == 0, weight.name


def test_one_tensor_of_tiny_wide_is_larger_than_the_rest_of_a_layer(tiny_model: Any) -> None:
    catalogue = read_catalogue(tiny_model("tiny-wide", "q4_0"))
    output = catalogue.get("output.weight")
    assert output is not None
    layer = sum(t.nbytes for t in catalogue.tensors if t.name.startswith("blk.0."))
    assert output.nbytes > 4 * layer
