"""Whether a file is a LoRA adapter of a model, before llama.cpp reads it."""

from __future__ import annotations

from typing import Any

from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue


def check_adapter(path: Any, model: Catalogue) -> None:
    """Look at a file that shall change a model.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is broken, no adapter, or another model's.
    """
    found = read_catalogue(path)
    kind = found.metadata.get("general.type")
    if kind != "adapter" or found.metadata.get("adapter.type") != "lora":
        raise ModelFileError(
            f"{path} is no LoRA adapter (general.type is {kind}); give another file"
        )
    if found.architecture != model.architecture:
        raise ModelFileError(
            f"{path} is an adapter of the architecture {found.architecture}, the model is "
            f"{model.architecture}; give one that was made for this model"
        )
    for tensor in found.tensors:
        name, _, part = tensor.name.rpartition(".")
        base = model.get(name)
        if part not in ("lora_a", "lora_b"):
            continue
        if base is None:
            raise ModelFileError(
                f"{path} changes {name}, which the model does not have; give an adapter that was "
                "made for this model"
            )
        side = 0 if part == "lora_a" else 1
        # The adapter of a table of embeddings is kept the other way round.
        if base.shape[side] not in tensor.shape:
            raise ModelFileError(
                f"{path}: {tensor.name} has the shape {tensor.shape}, but {name} of the model has "
                f"{base.shape}; give an adapter that was made for this model"
            )
