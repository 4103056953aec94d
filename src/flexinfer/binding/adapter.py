"""A LoRA adapter: looked at before llama.cpp reads it, and what came of that."""

from __future__ import annotations

import os
from typing import Any

import llama_cpp

from flexinfer.binding.grammar_sampler import Survive
from flexinfer.binding.private import at_close
from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.memory.pointers import float_cell


def take_adapter(options: dict[str, Any], model: Catalogue) -> str | None:
    """The path of the adapter, taken out of `options`: the parent would not look at what it gets.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is broken, no adapter, or another model's.
    """
    path = options.pop("lora_path", None)
    if not path:
        return None
    _check(path, model)
    return str(os.fspath(path))


def _check(path: Any, model: Catalogue) -> None:
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


def load_adapter(llm: llama_cpp.Llama, path: str | None, survive: Survive) -> None:
    """Load the adapter in `path`, if any, and apply it by the class's `lora_scale`.

    Raises:
        ModelFileError: llama.cpp does not take it.
        BudgetError: it does not fit.
    """
    llm.lora_path = path
    if path is None:
        return

    def refused(why: str) -> ModelFileError:
        return ModelFileError(
            f"{path}: llama.cpp does not take this adapter for the model, {why}; give one that "
            "was made for this model"
        )

    adapter = survive(
        lambda: llama_cpp.llama_adapter_lora_init(llm.model, os.fsencode(path)), refused
    )
    if not adapter:
        raise refused("opened with verbose=True it says why")
    at_close(llm, lambda: llama_cpp.llama_adapter_lora_free(adapter))
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    if llama_cpp.llama_set_adapters_lora(llm.ctx, adapters, 1, float_cell(llm.lora_scale)):
        raise refused("it cannot be applied")
