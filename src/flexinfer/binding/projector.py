"""Image projectors of llama-cpp-python's chat handlers: loaded with the model, inside its budget.

The binding loads a projector (``mmproj``) when the first image is asked about, with llama.cpp's
own CPU backend: the device never sees it, and its weights stay in memory as a whole.
"""

from __future__ import annotations

import os
from typing import Any

from flexinfer.binding.private import load_image_projector
from flexinfer.errors import ModelFileError
from flexinfer.gguf.check_projector import check_projector
from flexinfer.machine.machine import process_memory
from flexinfer.memory.ledger import Ledger

ACCOUNT = "projector"


def load_projector(llm: Any, handler: Any, ledger: Ledger) -> int:
    """Load what `handler` needs beside `llm`, if anything; the bytes charged, by measurement.

    Raises:
        BudgetError: it does not fit, even with the smallest window for weights.
        ModelNotFoundError: there is no such file.
        ModelFileError: it is no projector, or llama.cpp does not load it beside this model.
    """
    path = getattr(handler, "clip_model_path", None)
    if path is None:
        return 0
    check_projector(path)
    expected = os.path.getsize(path)
    ledger.charge(ACCOUNT, expected)
    charged = expected
    try:
        before = process_memory()
        try:
            load_image_projector(handler, llm)
        except ValueError as error:
            raise ModelFileError(
                f"{path}: llama.cpp does not load this projector beside the model; give the mmproj "
                "file that was made for it"
            ) from error
        found = max(process_memory() - before, 0)
        ledger.charge(ACCOUNT, max(found - expected, 0))
        charged = max(found, expected)
    except BaseException:
        ledger.release(ACCOUNT, charged)
        raise
    return charged
