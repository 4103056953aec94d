"""Metadata for which llama.cpp aborts is refused first, by name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from support.architectures import tiny

from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.check_metadata import check_parameters


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
        ("deepseek2-moe", "attention.temperature_scale", 0.1),
        ("gemma3-dense", "attention.sliding_window", 2**31),
        ("phimoe-moe", "attention.head_count", 0),
        ("modern-bert-dense", "attention.sliding_window_pattern", 0),
        ("gemma-embedding-dense", "attention.sliding_window_pattern", 6),
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


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("phi3-dense", "blk.#.attn_q"),
        ("phi3-dense", "blk.#.attn_v"),
        ("qwen35-dense", "blk.#.attn_qkv"),
        ("qwen35-dense", "blk.#.attn_gate"),
        ("nemotron_h-dense", "blk.#.ssm_conv1d.bias!"),
        ("glm-dsa-moe", "blk.#.indexer.attn_k"),
    ],
)
def test_a_missing_companion_is_named(name: str, tensor: str, tmp_path: Path) -> None:
    """llama.cpp would read it at an address of zero."""
    model = copy.deepcopy(tiny.models()[name])
    model["tensors"] = [line for line in model["tensors"] if not line.startswith(f"{tensor} ")]
    catalogue = read_catalogue(tiny.write_model(model, tmp_path / "model.gguf"))
    with pytest.raises(ModelFileError, match="is missing beside") as error:
        check_parameters(catalogue)
    assert tensor.rstrip("!").partition("#")[2] in str(error.value)


@pytest.mark.parametrize("name", sorted(tiny.models()))
def test_sound_models_pass(name: str, tmp_path: Path) -> None:
    check_parameters(read_catalogue(tiny.write(name, tmp_path)))


@pytest.mark.native
@pytest.mark.parametrize(
    ("name", "tensor", "kind"),
    [
        ("llama-dense", "output_norm", "F16"),
        ("mamba-dense", "blk.#.ssm_a!", "F16"),
        ("mamba-dense", "blk.#.ssm_conv1d", "F16"),
        ("llama-dense", "blk.#.ffn_up", "I32"),
        ("llama-moe", "blk.#.ffn_up_exps", "I32"),
        ("llama-dense", "token_embd", "I8"),
        ("llama-moe", "blk.#.ffn_up_exps.scale!", "I32"),
        ("llama-moe", "blk.#.ffn_up_exps.scale!", "I8"),
    ],
)
def test_a_weight_of_a_type_that_is_not_taken(
    name: str, tensor: str, kind: str, tmp_path: Path
) -> None:
    """ggml would abort in the first pass."""
    from support.decoding_bits import open_tiny

    model = copy.deepcopy(tiny.models()[name])
    model["tensors"] = [
        line.replace(" F32 ", f" {kind} ") if line.startswith(f"{tensor} ") else line
        for line in model["tensors"]
    ]
    path = tiny.write_model(model, tmp_path / "model.gguf")
    weight = tensor.replace("#", "0").rstrip("!")
    with pytest.raises(ModelFileError, match=f"{path}: .*{weight}.* is of a type"):
        open_tiny(path)


@pytest.mark.native
@pytest.mark.parametrize("dimensions", [0, 127, 255, 2**32 - 1])
def test_impossible_rotations(dimensions: int, tmp_path: Path) -> None:
    """ggml would abort in the first pass, and never end it with 0."""
    from support.decoding_bits import open_tiny

    model = copy.deepcopy(tiny.models()["gemma3-dense"])
    model["metadata"]["*.rope.dimension_count_swa"] = ("UINT32", dimensions)
    path = tiny.write_model(model, tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match=r"dimensions of 128 are to be rotated"):
        open_tiny(path)
