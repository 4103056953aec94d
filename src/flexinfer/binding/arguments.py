"""Arguments of `flexinfer.Llama`: defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import llama_cpp

from flexinfer.errors import UnsupportedError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.machine.machine import Machine

# Arguments of the parent that place weights: here the plan does, so only these values are taken.
_PLACEMENT: dict[str, tuple[Any, ...]] = {
    "n_gpu_layers": (0, -1),
    "split_mode": (llama_cpp.LLAMA_SPLIT_MODE_LAYER,),
    "main_gpu": (0,),
    "tensor_split": (None,),
    "use_mlock": (False,),
}


def refuse_placement(options: dict[str, Any]) -> None:
    """Raise `UnsupportedError` for an argument of the parent that places weights."""
    for name, allowed in _PLACEMENT.items():
        if name in options and options[name] not in allowed:
            raise UnsupportedError(
                f"{name}={options[name]!r} places weights, which the memory budget does here; "
                "leave it out"
            )


def fill_defaults(options: dict[str, Any], machine: Machine, catalogue: Catalogue) -> None:
    """Set what depends on machine and model: threads, and a context of 0, in place."""
    options["n_threads"] = options.get("n_threads") or machine.cores
    options["n_threads_batch"] = options.get("n_threads_batch") or machine.cores
    if options.get("n_ctx") == 0:
        options["n_ctx"] = catalogue.parameter("context_length", 0)
