"""The metadata of a model as llama.cpp has it, whatever bytes it consists of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llama_cpp

from flexinfer.memory.pointers import text_cell


def read_metadata(model: Any) -> dict[str, str]:
    """Each entry as a text; bytes that are no UTF-8 are replaced."""

    def text(call: Callable[..., int], index: int) -> str:
        cell = text_cell(call(model.model, index, None, 0) + 1)
        call(model.model, index, cell, len(cell))
        return cell.value.decode("utf-8", "replace")

    return {
        text(llama_cpp.llama_model_meta_key_by_index, index): text(
            llama_cpp.llama_model_meta_val_str_by_index, index
        )
        for index in range(llama_cpp.llama_model_meta_count(model.model))
    }
