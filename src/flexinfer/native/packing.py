"""Packing: rows of a weight interleaved where they are, for the kernels of llama.cpp's default.

ggml's buffer type ``CPU_REPACK`` says which weights it has such kernels for, and packs them
(``ggml/src/ggml-cpu/repack.cpp``). It looks at two fields of a tensor only, `buffer` and `extra`,
so a private copy with them computes from packed bytes wherever these are. Another buffer type, as
AMX has one, is never used: its bytes cannot be packed in place.
"""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache

from flexinfer.errors import EngineError
from flexinfer.native.library import Library, library
from flexinfer.native.log_filter import LogFilter
from flexinfer.native.mirror import GetExtraBuffers, Tensor

_NAME = b"CPU_REPACK"
# The most rows that any processor's kernels interleave (RISC-V).
_GROUP = 16
# So much stays in a core's cache: 25 MB at a time are packed at a third of the rate.
_CHUNK = 512 << 10
_ALIGNMENT = 64


class Packing:
    """One kind of weight: how its tensors are marked as packed, and the packing itself.

    Args:
        packer: of the process.
        matrix: a tensor as the weight has it, one matrix of it where there are several.

    Attributes:
        buffer, extra: the fields that packed tensors have.
        row_bytes: bytes of one row, packed or not.
    """

    def __init__(self, packer: Packer, matrix: Tensor) -> None:
        self._packer = packer
        self._matrix = matrix
        self.buffer: int = matrix.buffer
        self.extra: int = matrix.extra
        self.row_bytes: int = matrix.nb[1]

    def __repr__(self) -> str:
        return f"<Packing rows of {self.row_bytes} bytes>"

    def pack(self, address: int, nbytes: int) -> None:
        """Pack the rows that lie at `address`, in place. Other threads run meanwhile.

        Raises:
            EngineError: these are no whole groups of rows.
        """
        rows, rest = divmod(nbytes, self.row_bytes)
        step = max(_CHUNK // self.row_bytes // _GROUP, 1) * _GROUP
        last = rows % step or step
        if rest or not rows or self._shaped(last).extra != self.extra:
            raise EngineError(f"{nbytes} bytes are no rows that can be packed; report this")
        with self._packer.quiet():
            for first in range(0, rows, step):
                self._pack_rows(address + first * self.row_bytes, min(step, rows - first))

    def _pack_rows(self, address: int, rows: int) -> None:
        tensor, nbytes = self._shaped(rows), rows * self.row_bytes
        scratch = self._packer.scratch(nbytes)
        ctypes.memmove(scratch, address, nbytes)
        tensor.data = address
        self._packer.set_tensor(tensor, scratch, nbytes)

    def _shaped(self, rows: int) -> Tensor:
        """A tensor of so many rows, as the library marks it."""
        tensor = Tensor.from_buffer_copy(self._matrix)
        tensor.ne[1] = rows
        tensor.nb[2] = tensor.nb[3] = rows * self.row_bytes
        self._packer.mark(tensor)
        return tensor


class Packer:
    """The packing of this process's ggml.

    Args:
        native: the checked library.
        buffer: a buffer of the type that packs.
    """

    def __init__(self, native: Library, buffer: int) -> None:
        self._native = native
        self._buffer = buffer
        self._local = threading.local()
        self._log = LogFilter(native)
        self.quiet = self._log.quiet

    def listen(self) -> None:
        """Keep what packing says a piece out of the log, whoever set a callback since."""
        self._log.install()

    def packing(self, weight: int) -> Packing | None:
        """How the weight whose tensor is at `weight` is packed; None where it has no such kernels.

        That depends on its type, its rows and the processor.
        """
        matrix = Tensor.from_buffer_copy(ctypes.string_at(weight, ctypes.sizeof(Tensor)))
        matrix.view_src = None
        matrix.ne[2] = matrix.ne[3] = 1
        matrix.nb[2] = matrix.nb[3] = matrix.ne[1] * matrix.nb[1]
        self.mark(matrix)
        return Packing(self, matrix) if matrix.extra else None

    def mark(self, tensor: Tensor) -> None:
        """Set `buffer`, and `extra` to its packed kernels (None where it has none)."""
        tensor.buffer, tensor.extra = self._buffer, None
        self._native.ggml_backend_buffer_init_tensor(self._buffer, ctypes.addressof(tensor))

    def set_tensor(self, tensor: Tensor, raw: int, nbytes: int) -> None:
        """Fill a marked tensor with the raw bytes at that address, packed."""
        self._native.ggml_backend_tensor_set(ctypes.addressof(tensor), raw, 0, nbytes)

    def scratch(self, nbytes: int) -> int:
        """Address of at least `nbytes` of memory of the calling thread's own."""
        memory = getattr(self._local, "memory", None)
        if memory is None or len(memory) < nbytes + _ALIGNMENT:
            memory = self._local.memory = ctypes.create_string_buffer(
                max(nbytes, _CHUNK) + _ALIGNMENT
            )
        return -(-ctypes.addressof(memory) // _ALIGNMENT) * _ALIGNMENT


@lru_cache(maxsize=1)
def packer() -> Packer | None:
    """What packs in this process; None where the library has no kernels for packed weights."""
    native = library()
    for name, kind in _extra_buffer_types(native):
        if name == _NAME:
            return Packer(native, native.ggml_backend_buft_alloc_buffer(kind, _ALIGNMENT))
    return None


def listening_packer() -> Packer | None:
    """`packer`, with what it says a piece kept out of the log from now on."""
    found = packer()
    if found is not None:
        found.listen()
    return found


def other_buffer_types() -> tuple[str, ...]:
    """Buffer types that llama.cpp prefers by default where they have kernels, as AMX's.

    Weights in them are computed by kernels that are not used here.
    """
    return tuple(name.decode() for name, _ in _extra_buffer_types(library()) if name != _NAME)


def _extra_buffer_types(native: Library) -> list[tuple[bytes, int]]:
    """Name and address of each buffer type that the processor's device has besides its own."""
    registry = native.ggml_backend_cpu_reg()
    address = native.ggml_backend_reg_get_proc_address(
        registry, b"ggml_backend_dev_get_extra_bufts"
    )
    if not address:
        return []
    kinds = GetExtraBuffers(address)(native.ggml_backend_reg_dev_get(registry, 0))
    found: list[tuple[bytes, int]] = []
    while kinds and (kind := kinds[len(found)]):
        found.append((bytes(native.ggml_backend_buft_name(kind)), kind))
    return found
