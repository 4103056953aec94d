"""Run any GGUF language model inside a memory budget, with exactly llama.cpp's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Llama", "Server", "__version__", "pack", "plan"]

if TYPE_CHECKING:
    from flexinfer.llama import Llama
    from flexinfer.packed import pack
    from flexinfer.planned import plan
    from flexinfer.server import Server


def __getattr__(name: str) -> Any:
    # Loaded on first use: the native library comes with the class, not with the package.
    if name == "Llama":
        from flexinfer.llama import Llama

        return Llama
    if name == "Server":
        from flexinfer.server import Server

        return Server
    if name == "pack":
        from flexinfer.packed import pack

        return pack
    if name == "plan":
        from flexinfer.planned import plan

        return plan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
