"""Metadata for which llama.cpp aborts is refused first, by name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from architectures import tiny

from flexinfer.broken import check_parameters
from flexinfer.errors import ModelFileError
from flexinfer.gguf import read_catalogue


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama-dense", "block_count", 0),
        ("llama-dense", "block_count", 513),
        ("llama-dense", "expert_used_count", 1),
        ("llama-dense", "nextn_predict_layers", 3),
        ("llama-moe", "expert_count", 1025),
        ("llama-moe", "expert_count", 1),
        ("llama-moe", "expert_used_count", 0),
        ("llama-moe", "expert_used_count", 3),
        ("llama-moe", "expert_group_count", 2),
        ("llama-dense", "expert_group_count", 2),
        ("llama-dense", "attention.layer_norm_rms_epsilon", -1.0),
        ("llama-dense", "attention.layer_norm_rms_epsilon", float("nan")),
    ],
)
def test_refused_by_name(name: str, key: str, value: float, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny.models()[name])
    model["blocks"] = model["metadata"]["*.block_count"][1]
    model["metadata"][f"*.{key}"] = ("FLOAT32" if isinstance(value, float) else "UINT32", value)
    path = tiny.write_model(model, tmp_path / "model.gguf")
    with pytest.raises(ModelFileError) as error:
        check_parameters(read_catalogue(path))
    assert str(path) in str(error.value)
    assert "fetch or convert" in str(error.value)


@pytest.mark.parametrize("name", ["llama-dense", "llama-moe", "bert-dense", "jamba-dense"])
def test_sound_models_pass(name: str, tmp_path: Path) -> None:
    check_parameters(read_catalogue(tiny.write(name, tmp_path)))


@pytest.mark.native
def test_a_norm_in_half_precision_is_refused(tmp_path: Path) -> None:
    """ggml would abort in the first pass."""
    from decoding_bits import open_tiny

    model = copy.deepcopy(tiny.models()["llama-dense"])
    model["tensors"] = [
        line.replace(" F32 ", " F16 ") if line.startswith("output_norm ") else line
        for line in model["tensors"]
    ]
    path = tiny.write_model(model, tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match=r"output_norm.weight is of a type"):
        open_tiny(path)
