"""What `flexinfer serve` was asked for, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexinfer.gguf.mirrors import Mirror
from flexinfer.planning.kernels import Kernels
from flexinfer.planning.split import Split
from flexinfer.serve.arguments import Extra


@dataclass(frozen=True)
class Settings:
    """Sizes in bytes, `ctx` in tokens a slot; None: chosen.

    Attributes:
        follows: the budget moves with what the machine can spare.
        kv: name and ggml's number of the KV cache's type.
        flags: llama-server's own, which are passed on.
        draft: a way of drafting, or the path of a model that does.
        split: which layers are at workers.
        mirrors: copies of the model on other drives, compared with it.
    """

    budget: int
    follows: bool = False
    slots: int = 1
    ctx: int | None = None
    ubatch: int | None = None
    weight_memory: int | None = None
    threads: int = 1
    kv: tuple[str, int] = ("f16", 1)
    flash_attention: bool | None = None
    kernels: Kernels = Kernels.PLAIN
    strategy: str = "flex"
    window: int | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    cors_origins: str = "localhost"
    alias: str | None = None
    lora: tuple[str, ...] = ()
    mmproj: str | None = None
    embeddings: bool = False
    idle_seconds: float = 0.0
    split: Split | None = None
    draft: str = "off"
    flags: Extra = field(default_factory=Extra)
    mirrors: tuple[Mirror, ...] = ()
