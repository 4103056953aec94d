"""A tiny model opened to stream, and the bits of what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flexinfer import Llama

_PROMPT = [3, 17, 101, 9, 44, 8, 61, 27]


def open_tiny(path: Path | str, weight_memory: str = "1MiB", **options: Any) -> Llama:
    return Llama(
        str(path),
        weight_memory=weight_memory,
        n_ctx=256,
        n_threads=2,
        n_ubatch=32,
        logits_all=True,
        verbose=False,
        **options,
    )


def answer(llm: Llama, tokens: int = 3) -> bytes:
    """The bits of all logits of a prompt and the tokens that follow, from an empty context."""
    assert llm._logits_all, "no logits are kept: these rows were never written"
    llm.reset()
    llm.eval(_PROMPT)
    for _ in range(tokens):
        llm.eval([int(np.argmax(llm.scores[llm.n_tokens - 1]))])
    return bytes(llm.scores[: llm.n_tokens].tobytes())
