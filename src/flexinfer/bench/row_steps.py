"""What a pass of several rows takes in memory: one row of each of so many sequences."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as binding

from flexinfer.errors import EngineError

# Tokens of each sequence before, as many as one has about in the middle of a measurement.
_BEFORE = 32
_STEPS = 5


def row_steps(llm: Any, rows: int) -> list[float]:
    """Seconds of passes with a row of each of `rows` sequences of the model's context.

    The context is one as llama.cpp's server makes it for so many slots: one cache for all, flash
    attention where the model has it.

    Raises:
        EngineError: llama.cpp could not make that context, or compute a pass.
    """
    params = type(llm.context_params).from_buffer_copy(llm.context_params)
    params.n_ctx = rows * llm.n_ctx()
    params.n_seq_max = rows
    params.n_batch = params.n_ubatch = max(rows, _BEFORE)
    params.kv_unified = True
    params.flash_attn_type = binding.LLAMA_FLASH_ATTN_TYPE_AUTO
    context = binding.llama_init_from_model(llm.model, params)
    batch = binding.llama_batch_init(params.n_batch, 0, 1)
    if not context:
        raise EngineError(f"llama.cpp makes no context of {rows} sequences")
    try:
        for sequence in range(rows):
            _decode(context, batch, [(sequence, at) for at in range(_BEFORE)])
        return [_timed(context, batch, rows, _BEFORE + step) for step in range(_STEPS + 1)][1:]
    finally:
        binding.llama_batch_free(batch)
        binding.llama_free(context)


def _timed(context: Any, batch: Any, rows: int, at: int) -> float:
    began = time.perf_counter()
    _decode(context, batch, [(sequence, at) for sequence in range(rows)])
    return time.perf_counter() - began


def _decode(context: Any, batch: Any, cells: Sequence[tuple[int, int]]) -> None:
    """One pass over (sequence, position) of each row."""
    batch.n_tokens = len(cells)
    for row, (sequence, at) in enumerate(cells):
        batch.token[row] = 300 + 7 * sequence + at
        batch.pos[row] = at
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        # Of a prompt the last row is looked at, of a pass over sequences each.
        batch.logits[row] = row + 1 == len(cells) or cells[0][0] != cells[-1][0]
    status = binding.llama_decode(context, batch)
    if status:
        raise EngineError(f"llama.cpp computed no pass of {len(cells)} rows: status {status}")
    binding.llama_synchronize(context)
