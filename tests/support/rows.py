"""The rows of one batch beside the same tokens computed one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexinfer import Llama
from flexinfer.binding.private import compute_rows
from support.decoding import Logits


def open_rows(path: Path | str, memory: str | int, **options: Any) -> Llama:
    """A model whose contexts are long enough for attention to be split among threads."""
    sizes = {"n_ctx": 1024, "n_batch": 64, "n_ubatch": 64}
    threads = {"n_threads": 2, "n_threads_batch": 1}
    asked = sizes | threads | {"repack": False, "flash_attn": True} | options
    return Llama(str(path), weight_memory=memory, verbose=False, **asked)


def some_tokens(llm: Llama, count: int, start: int = 0) -> list[int]:
    vocabulary = llm.n_vocab()
    return [3 + (7 * at + 13 * (at // 5)) % (vocabulary - 3) for at in range(start, start + count)]


def one_by_one(llm: Llama, known: int, tokens: Sequence[int]) -> Logits:
    """Bits of the logits of each token after `known` others, as single passes give them."""
    _begin(llm, known)
    rows = []
    for token in tokens:
        rows.append(compute_rows(llm, [token]).copy())
        llm.n_tokens += 1
    bits: Logits = np.concatenate(rows).view(np.uint32)
    return bits


def together(llm: Llama, known: int, tokens: Sequence[int], *, kept: bool = True) -> Logits:
    """The same from one pass; with `kept` each row is to come out as it would alone."""
    _begin(llm, known)
    keeping = llm._running().keeping_rows() if kept else contextlib.nullcontext()
    with keeping:
        bits: Logits = compute_rows(llm, tokens).copy().view(np.uint32)
    return bits


def _begin(llm: Llama, known: int) -> None:
    llm.reset()
    llm.eval(some_tokens(llm, known))
