"""Arguments of `flexinfer.Llama`: defaults, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import llama_cpp

from flexinfer.errors import UnsupportedError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.machine.machine import Machine

# Arguments of the parent that place weights: here the plan does, so only these values are taken.
# `n_gpu_layers` and `use_mlock` may have any, as they ask for no more than the plan does.
_PLACEMENT: dict[str, tuple[Any, ...]] = {
    "split_mode": (llama_cpp.LLAMA_SPLIT_MODE_LAYER,),
    "main_gpu": (0,),
    "tensor_split": (None,),
}
_ON_CARDS = {"split_mode": (llama_cpp.LLAMA_SPLIT_MODE_NONE, llama_cpp.LLAMA_SPLIT_MODE_LAYER)}

# What the parent's state has as it was planned.
_PLANNED = (
    *("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch"),
    *("n_gpu_layers", "split_mode", "use_mmap", "use_mlock", "flash_attn"),
)


def refuse_placement(options: dict[str, Any], *, cards: bool = False) -> None:
    """Raise `UnsupportedError` for an argument of the parent that places weights.

    Args:
        cards: there are graphics cards, over which whole layers may be placed.
    """
    for name, allowed in (_ON_CARDS if cards else _PLACEMENT).items():
        if name in options and options[name] not in allowed:
            raise UnsupportedError(
                f"{name}={options[name]!r} places weights, which the memory budget does here; "
                "leave it out"
            )


def state_of(parents: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The parent's state of a model, with sizes as they were asked for instead of planned."""
    known = signature(llama_cpp.Llama.__init__).parameters
    sizes = {name: asked.get(name, known[name].default) for name in _PLANNED}
    ours = {name: value for name, value in asked.items() if name not in parents}
    return {**parents, **sizes, **ours}


def fill_defaults(options: dict[str, Any], machine: Machine, catalogue: Catalogue) -> None:
    """Set what depends on machine and model: threads, context of 0, batch above it, in place."""
    for name in ("n_threads", "n_threads_batch"):
        wanted = options.get(name) or 0
        options[name] = wanted if wanted > 0 else machine.cores
    if options.get("n_ctx") == 0:
        options["n_ctx"] = catalogue.parameter("context_length", 0)
    if options.get("n_ctx"):
        # llama.cpp takes no more, but the parent makes room for the logits of what it was told.
        known = signature(llama_cpp.Llama.__init__).parameters["n_batch"].default
        options["n_batch"] = min(options.get("n_batch", known), options["n_ctx"])
