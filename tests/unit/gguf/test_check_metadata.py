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
    ("kind", "shown"),
    [(("STRING", "gpt9"), "'gpt9'"), (("UINT32", 5), "'5'"), (("[STRING", ["gpt2"]), "")],
)
def test_a_kind_of_vocabulary_that_llama_cpp_lacks_is_named(
    tmp_path: Path, kind: tuple[str, object], shown: str
) -> None:
    model = copy.deepcopy(tiny.models()["llama-dense"])
    model["metadata"]["tokenizer.ggml.model"] = kind
    path = tiny.write_model(model, tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match=f"no vocabulary of the kind {shown}"):
        check_parameters(read_catalogue(path))


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
