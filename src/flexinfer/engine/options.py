"""How a model is to be opened: budget, strategy, kernels."""

from __future__ import annotations

from dataclasses import dataclass

from flexinfer.engine.elsewhere import Elsewhere
from flexinfer.gguf.mirrors import Mirror
from flexinfer.planning.kernels import Kernels
from flexinfer.planning.plan import LEAST_CONTEXT, Request


@dataclass(frozen=True)
class Options:
    """How a model is to be opened; see `flexinfer.Llama` for the meaning.

    `asked` says that somebody wished for the budget by name; `memlock` is how many bytes may be
    locked with mlock, None when there is no limit; `rows` of logits are asked for at once, to
    verify drafts; `steady_ubatch` tokens of a prompt are computed at a time wherever that fits;
    `beside` are the bytes of a model that drafts. With `flash_attention_auto` llama.cpp decides.
    Weights that are `unread` another model of this process computes with, from the same file.
    What is `elsewhere` has layers of it; `mirror_bytes` is what reading from mirrors takes; copies
    that are `packed` are read instead of its own files.
    """

    budget: int
    asked: bool = False
    strategy: str = "flex"
    weight_memory: int | None = None
    window: int | None = None
    logits_all: bool = False
    rows: int = 0
    steady_ubatch: int = 0
    beside: int = 0
    min_ctx: int = LEAST_CONTEXT
    memlock: int | None = None
    kernels: Kernels = Kernels.PLAIN
    flash_attention_auto: bool = False
    elsewhere: Elsewhere | None = None
    mirror_bytes: int = 0
    packed: tuple[Mirror, ...] = ()
    unread: frozenset[str] = frozenset()

    def pins(self, nbytes: int) -> bool:
        """Whether so much may be kept out of swap."""
        return self.memlock is None or nbytes <= self.memlock

    def request(self, ctx: int, ubatch: int) -> Request:
        """What the planner is asked for a context of so many tokens, in batches of so many."""
        return Request(
            budget=self.budget,
            ctx=ctx,
            ubatch=ubatch,
            strategy=self.strategy,
            weight_memory=self.weight_memory,
            window=self.window,
            min_ctx=min(self.min_ctx, ctx),
            steady_ubatch=min(self.steady_ubatch, ubatch),
            split=None if self.elsewhere is None else self.elsewhere.split,
        )
