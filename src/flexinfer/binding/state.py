"""What a context has computed, kept in memory or in a file and counted in the ledger.

The parent class copies a state three times and with it rows of scores that nobody wrote. Here it is
copied once; a file is written and read piece by piece, of which none is larger than one layer.
"""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import llama_cpp.llama_cpp as binding
import numpy as np
from llama_cpp import Llama
from llama_cpp.llama import LlamaState
from llama_cpp.llama_cache import LlamaRAMCache

from flexinfer.binding import private
from flexinfer.errors import RequestError
from flexinfer.memory.ledger import Ledger
from flexinfer.memory.pointers import first_byte, size_cell
from flexinfer.text import shown_value
from flexinfer.whole_file import whole_file

_ACCOUNT = "states"
_MAGIC = b"flexinfer state\0"
# The name of the kernels that computed it: with others each value differs a little.
_KERNELS = 8
_TRAILER = _KERNELS + len(_MAGIC) + 4
_BLOCK = 1 << 20


def save_state(llm: Llama, ledger: Ledger) -> LlamaState:
    """The state as the parent's callers know it; its bytes stay in the ledger as long as it lives.

    Without `logits_all` no scores are ever written: one row of zeros stands for them.

    Raises:
        BudgetError: it does not fit the budget, though other weights and states gave way.
    """
    size = int(binding.llama_state_get_size(llm.ctx))
    scored = private.keeps_logits(llm)
    rows = llm.n_tokens if scored else 1
    held = size + 4 * rows * llm.n_vocab() + int(llm.input_ids.nbytes)
    _forget_cached(llm, ledger, held)
    ledger.charge(_ACCOUNT, held)
    try:
        data = bytearray(size)
        written = int(binding.llama_state_get_data(llm.ctx, first_byte(data), size))
        del data[written:]
        state = LlamaState(
            scores=llm.scores[:rows].copy() if scored else np.zeros((1, llm.n_vocab()), np.single),
            input_ids=llm.input_ids.copy(),
            n_tokens=llm.n_tokens,
            llama_state=data,
            llama_state_size=written,
            seed=private.seed(llm),
        )
    except BaseException:
        ledger.release(_ACCOUNT, held)
        raise
    weakref.finalize(state, ledger.release, _ACCOUNT, held).atexit = False
    return state


def load_state(llm: Llama, state: LlamaState) -> None:
    """Go on from `state`, which may be the parent's.

    Raises:
        RequestError: it is another model's, or larger than the context.
    """
    if not isinstance(state, LlamaState):
        raise RequestError(f"the state is {shown_value(state)}; give what save_state() returned")
    size, tokens = state.llama_state_size, state.n_tokens
    if (
        not _fits(llm, state)
        or binding.llama_state_set_data(llm.ctx, first_byte(state.llama_state), size) != size
    ):
        private.clear(llm)
        raise RequestError("the state is another model's, or of a larger context; compute it again")
    if private.keeps_logits(llm):
        llm.scores[:tokens] = state.scores
    private.take_over(llm, state.input_ids[:tokens], state.seed)


def _fits(llm: Llama, state: LlamaState) -> bool:
    """Whether its parts agree; bytes that are missing would be read from behind it."""
    try:
        rows, columns = state.scores.shape
        return bool(
            0 <= state.n_tokens <= min(llm.n_ctx(), len(state.input_ids))
            and 0 <= state.llama_state_size <= len(state.llama_state)
            and columns == llm.n_vocab()
            and (rows in (1, state.n_tokens) or not private.keeps_logits(llm))
            and isinstance(state.seed, Integral)
        )
    except (AttributeError, TypeError, ValueError):
        return False


def write_file(llm: Llama, path: Path, ledger: Ledger, kv_bytes: int, kernels: str) -> None:
    """Write tokens and KV cache to `path`, which appears only once it is complete.

    Args:
        kv_bytes: of the cache as a whole.
        kernels: name of those that computed it.

    Raises:
        RequestError: there is nothing to write, or the drive is full.
        BudgetError: the budget has no room for one layer's part.
    """
    ids = [int(token) for token in llm.input_ids[: llm.n_tokens]]
    if not ids:
        raise RequestError("nothing was computed yet: there is no state to write")
    tokens = (binding.llama_token * len(ids))(*ids)
    with whole_file(path) as partial:
        with _piece(llm, ledger, kv_bytes):
            name = os.fsencode(partial)
            written = binding.llama_state_seq_save_file(llm.ctx, name, 0, tokens, len(ids))
        if not written:
            raise RequestError(
                f"the state cannot be written to {path}: is the folder there, the drive full?"
            )
        with open(partial, "ab") as file:
            file.write(kernels.encode().ljust(_KERNELS))
        with open(partial, "ab") as file:
            file.write(_trailer(partial))


def read_file(
    llm: Llama, path: Path, ledger: Ledger, kv_bytes: int, kernels: str
) -> list[int] | None:
    """The tokens of the state in `path`, which is taken over; None, and an empty context, where the
    file is no state, another model's, or larger than the context.

    Raises:
        RequestError: other kernels than `kernels` computed it.
        BudgetError: the budget has no room for one layer's part.
    """
    if not _is_whole(path):
        return None
    made = _kernels_of(path)
    if made != kernels:
        raise RequestError(
            f"{path} was computed with {made} kernels, and this model with {kernels} ones, whose "
            f"bits differ; open the model with repack={made == 'packed'}"
        )
    tokens = (binding.llama_token * llm.n_ctx())()
    count = size_cell()
    with _piece(llm, ledger, kv_bytes):
        read = binding.llama_state_seq_load_file(
            llm.ctx, os.fsencode(path), 0, tokens, llm.n_ctx(), count
        )
    if not read:
        private.clear(llm)
        return None
    ids = list(tokens[: count.value])
    private.take_over(llm, ids)
    return ids


def _trailer(path: Path, nbytes: int | None = None) -> bytes:
    """Magic and checksum of the first `nbytes` of a file: llama.cpp, which stops reading before
    them, ends the process when bytes are missing."""
    left = path.stat().st_size if nbytes is None else nbytes
    checksum = 0
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            checksum = zlib.crc32(block, checksum)
            left -= len(block)
    return _MAGIC + checksum.to_bytes(4, "little")


def _kernels_of(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(-_TRAILER, os.SEEK_END)
        return file.read(_KERNELS).decode(errors="replace").strip()


def _is_whole(path: Path) -> bool:
    try:
        # Opening a pipe waits for whoever writes to it, and a device need not end.
        if not path.is_file():
            return False
        nbytes = path.stat().st_size - _TRAILER + _KERNELS
        with open(path, "rb") as file:
            file.seek(max(nbytes, 0))
            found = file.read()
        return nbytes > _KERNELS and found == _trailer(path, nbytes)
    except OSError:
        return False


@contextmanager
def _piece(llm: Llama, ledger: Ledger, kv_bytes: int) -> Iterator[None]:
    """Room for what llama.cpp holds of a file at a time: one tensor of the cache."""
    layers = max(int(binding.llama_model_n_layer(llm.model)), 1)
    nbytes = kv_bytes // layers
    ledger.charge(_ACCOUNT, nbytes)
    try:
        yield
    finally:
        ledger.release(_ACCOUNT, nbytes)


def _forget_cached(llm: Llama, ledger: Ledger, nbytes: int) -> None:
    """Drop the oldest states of the parent's cache until `nbytes` are free, before weights go."""
    if not isinstance(llm.cache, LlamaRAMCache):
        return
    cached = llm.cache.cache_state
    while cached and ledger.free is not None and ledger.free < nbytes:
        cached.popitem(last=False)
