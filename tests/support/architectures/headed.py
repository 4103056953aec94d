"""Tiny models with trained heads behind their last layer, which mostly draft what they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from support.architectures import tiny

# Layers change so little of a token that what follows hangs on it nearly alone, in heads as well.
_LITTLE = 0.01
_OUT = ("attn_output.weight", "ffn_down.weight", "ffn_down_exps.weight", "ffn_down_shexp.weight")
# Only dense layers have these, and llama.cpp counts scales of experts that it leaves out.
_WITHOUT = ("ffn_gate", "ffn_up", "ffn_down")
_CONTEXT = 1024


def write(name: str, folder: Path, heads: int = 1, *, right: bool = True) -> Path:
    """Write the model `name` with so many heads; with `right` they know what it does."""
    path = tiny.write_model(_described(tiny.models()[name], heads), folder / f"{name}-{heads}.gguf")
    if right:
        _teach(path)
    return path


def _described(model: dict[str, Any], heads: int) -> dict[str, Any]:
    metadata = dict(model["metadata"])
    layers, width = metadata["*.block_count"][1], metadata["*.embedding_length"][1]
    for key, (kind, value) in metadata.items():
        if isinstance(value, list) and len(value) == layers and "sections" not in key:
            metadata[key] = [kind, value + value[-1:] * heads]
    metadata["*.block_count"] = ["UINT32", layers + heads]
    metadata["*.nextn_predict_layers"] = ["UINT32", heads]
    for key in ("*.context_length", "*.rope.scaling.original_context_length"):
        metadata[key] = ["UINT32", _CONTEXT]
    numbers = [str(layers + head) for head in range(heads)]
    listed = ",".join(numbers)
    tensors = [_also(line, str(layers - 1), layers, numbers) for line in model["tensors"]]
    tensors.append(f"blk.#.nextn.eh_proj F32 {2 * width}x{width} {listed}")
    tensors += [f"blk.#.nextn.{norm} F32 {width} {listed}" for norm in ("enorm", "hnorm")]
    return {**model, "metadata": metadata, "tensors": tensors}


def _also(line: str, last: str, layers: int, heads: list[str]) -> str:
    """A line of tensors, also for heads where the last layer has it."""
    name, kind, sizes, *listed = line.split()
    if "#" not in name:
        return line
    blocks = listed[0].split(",") if listed else [str(number) for number in range(layers)]
    if last in blocks and "scale" not in name and name.removeprefix("blk.#.") not in _WITHOUT:
        blocks += heads
    return f"{name} {kind} {sizes} {','.join(blocks)}"


def _teach(path: Path) -> None:
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if tensor.name.endswith(_OUT):
            tensor.data[:] *= np.float32(_LITTLE)
        elif tensor.name.endswith("enorm.weight"):
            tensor.data[:] = 1
        elif tensor.name.endswith("eh_proj.weight"):
            width = tensor.data.shape[0]
            tensor.data[:] *= np.float32(_LITTLE)
            tensor.data[:, :width] += np.eye(width, dtype=np.float32)
