"""Tiny models with random weights, of every architecture listed in `models.jsonl`.

The list holds metadata, tensor names and shapes of the models that llama.cpp's own
`tests/test-llama-archs.cpp` makes (ggml 0.25.3), some with keys added that it leaves out, one
model a line; a first line has the metadata that most of them share. `#` in a tensor's name stands
for the numbers of all blocks, or of those that are listed; `!` ends a name that is complete.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_LIST = Path(__file__).with_name("models.jsonl")
_STDEV = 0.1
_NUMBERS: dict[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "F64": np.float64,
    "I8": np.int8,
    "I32": np.int32,
}


@lru_cache(maxsize=1)
def models() -> dict[str, dict[str, Any]]:
    """All models by name, such as ``llama-moe``."""
    first, *lines = map(json.loads, _LIST.read_text("utf-8").splitlines())
    found = {}
    for line in lines:
        common = {k: v for k, v in first["common"].items() if k not in line.get("without", ())}
        found[line["model"]] = line | {"metadata": common | line["metadata"]}
    return found


def write(name: str, folder: Path) -> Path:
    """Write the model `name`; the same name gives the same bytes."""
    return write_model(models()[name], folder / f"{name}.gguf")


def write_model(model: dict[str, Any], path: Path) -> Path:
    """Write a model described as in `models`; the same one gives the same bytes."""
    writer = gguf.GGUFWriter(path, model["architecture"])
    for key, (kind, value) in model["metadata"].items():
        if key == "tokens":
            _add_tokenizer(writer, value)
        else:
            _add(writer, key.replace("*", model["architecture"], 1), kind, value)
    random = np.random.default_rng(zlib.crc32(model["model"].encode()))
    for tensor, kind, shape in _tensors(model):
        values = random.standard_normal(shape[::-1], np.float32) * np.float32(_STDEV)
        if "ssm_a" in tensor:  # the decay of a state space model is negative
            values = -np.abs(values)
        writer.add_tensor(tensor, values.astype(_NUMBERS[kind]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(model: dict[str, Any]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    blocks = range(model.get("blocks") or model["metadata"]["*.block_count"][1])
    for line in model["tensors"]:
        name, kind, sizes, *listed = line.split()
        name = name[:-1] if name.endswith("!") else f"{name}.weight"
        shape = tuple(map(int, sizes.split("x")))
        numbers = map(int, listed[0].split(",")) if listed else blocks
        for number in numbers if "#" in name else (0,):
            yield name.replace("#", str(number)), kind, shape


def _add(writer: gguf.GGUFWriter, key: str, kind: str, value: Any) -> None:
    if kind.startswith("["):
        if isinstance(value, dict):
            value = [value["repeat"]] * value["count"]
        element = gguf.GGUFValueType[kind[1:]]
        writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=element)
    else:
        writer.add_key_value(key, value, gguf.GGUFValueType[kind])


def _add_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    # llama.cpp's vocabulary for tests: tokens are numbers, text is of no interest.
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"tok_{number}" for number in range(size)])
    writer.add_token_scores([0.0] * size)
