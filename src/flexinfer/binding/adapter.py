"""A LoRA adapter: looked at before llama.cpp reads it, and what came of that."""

from __future__ import annotations

import os
from typing import Any

import llama_cpp

from flexinfer.binding.grammar_sampler import Survive
from flexinfer.binding.private import at_close
from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.check_adapter import check_adapter
from flexinfer.memory.pointers import float_cell


def take_adapter(options: dict[str, Any], model: Catalogue) -> str | None:
    """The path of the adapter, taken out of `options`: the parent would not look at what it gets.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is broken, no adapter, or another model's.
    """
    if options.get("lora_base"):
        # llama.cpp has no use for it any more; a name that is misspelt is told all the same.
        read_catalogue(options["lora_base"])
    path = options.pop("lora_path", None)
    if not path:
        return None
    check_adapter(path, model)
    return str(os.fspath(path))


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
