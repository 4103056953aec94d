"""Weights and rotations for which ggml would abort in the first pass are refused while opening."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from support.architectures import tiny

from flexinfer.errors import ModelFileError


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


@pytest.mark.parametrize("dimensions", [0, 127, 255, 2**32 - 1])
def test_impossible_rotations(dimensions: int, tmp_path: Path) -> None:
    """ggml would abort in the first pass, and never end it with 0."""
    from support.decoding_bits import open_tiny

    model = copy.deepcopy(tiny.models()["gemma3-dense"])
    model["metadata"]["*.rope.dimension_count_swa"] = ("UINT32", dimensions)
    path = tiny.write_model(model, tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match=r"dimensions of 128 are to be rotated"):
        open_tiny(path)


@pytest.mark.parametrize("sections", [[0, 0, 0, 0], [0, 0, 0, 5], [1, -1, 0, 0], [200, 0, 0, 0]])
def test_impossible_sections(sections: list[int], tmp_path: Path) -> None:
    """ggml would abort in the first pass, or divide by the sum."""
    from support.decoding_bits import open_tiny

    model = copy.deepcopy(tiny.models()["paddleocr-moe"])
    model["metadata"]["*.rope.dimension_sections"] = ("[INT32", sections)
    path = tiny.write_model(model, tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match=rf"{path}: .*sections of \[{sections[0]}, "):
        open_tiny(path)
