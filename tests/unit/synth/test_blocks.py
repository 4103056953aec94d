"""Random blocks: mean zero, the right spread, no two rows alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.tensors import tensor_bytes

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.synth.blocks import QUANTS


@pytest.mark.parametrize("quant", QUANTS)
def test_values_have_mean_zero_and_the_right_spread(quant: str, tiny_model: Any) -> None:
    gguf = pytest.importorskip("gguf")
    for tensor in gguf.GGUFReader(tiny_model("tiny-llama", quant)).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            tensor.data.shape[0], -1
        )
        if tensor.name.endswith("norm.weight"):
            assert values.mean() == pytest.approx(1.0, abs=0.02)
            continue
        expected = 1.0 if tensor.name == "token_embd.weight" else values.shape[1] ** -0.5
        # The scale of f16 and bf16 is a power of two.
        loose = 0.42 if quant in ("f16", "bf16") else 0.03
        assert np.sqrt((values**2).mean()) == pytest.approx(expected, rel=loose)
        assert abs(values.mean()) < 0.02 * expected
        assert abs(np.sign(values).mean(axis=0)).max() < 0.5, "a column leans to one side"


@pytest.mark.parametrize("quant", QUANTS)
def test_rows_differ_and_only_the_end_token_is_blank(quant: str, tiny_model: Any) -> None:
    tensors = dict(tensor_bytes(tiny_model("tiny-llama", quant)))
    catalogue = read_catalogue(tiny_model("tiny-llama", quant))
    for name in ("blk.0.attn_q.weight", "output.weight", "token_embd.weight"):
        info = catalogue.get(name)
        assert info is not None
        rows = np.frombuffer(tensors[name], np.uint8).reshape(info.rows, -1)
        assert len(np.unique(rows, axis=0)) == info.rows
        blank = np.flatnonzero(~rows.any(axis=1)).tolist()
        assert blank == ([2] if name == "output.weight" else [])
