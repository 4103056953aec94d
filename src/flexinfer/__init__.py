"""Run any GGUF language model inside a memory budget, with exactly llama.cpp's output."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Llama", "__version__", "plan"]

if TYPE_CHECKING:
    from flexinfer.foretell import plan
    from flexinfer.llama import Llama

# Loaded on first use: the native library comes with the class, not with the package.
_HOMES = {"Llama": "flexinfer.llama", "plan": "flexinfer.foretell"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
