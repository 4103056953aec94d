"""What another device does, tried on it: a product of a weight with one row, and transfers.

Works with any ggml device that has memory of its own, a worker's or a graphics card's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from flexinfer.native.library import Library, library
from flexinfer.native.mirror import InitParams
from flexinfer.native.timing import least_seconds

_DESCRIPTIONS = 1 << 20
_COLUMNS = 4096
_ROWS_STEP = 64
_F32 = 0
# The fastest counts: others were disturbed.
_REPEATS = 4


class RemoteProbe:
    """One device with a weight of a quantisation type in its memory; see `probing`.

    Attributes:
        nbytes: of the weight.
    """

    def __init__(self, native: Library, backend: int, graph: int, tensors: dict[str, int]) -> None:
        self.nbytes = int(native.ggml_nbytes(tensors["weight"]))
        self._native = native
        self._backend = backend
        self._graph = graph
        self._tensors = tensors
        self._content = ctypes.create_string_buffer(int(native.ggml_nbytes(tensors["mail"])))

    def latency(self) -> float:
        """Seconds for a question and its answer."""
        return least_seconds(lambda: self._get("result", 4), _REPEATS)

    def compute(self) -> float:
        """Seconds to go over the weight for one row, with a question and its answer."""

        def once() -> None:
            self._native.ggml_backend_graph_compute(self._backend, self._graph)
            self._get("result", 4)

        return least_seconds(once, _REPEATS)

    def send(self) -> tuple[float, int]:
        """Seconds to send so many bytes, and to hear that they came."""
        size = len(self._content)

        def once() -> None:
            self._native.ggml_backend_tensor_set(self._tensors["mail"], self._content, 0, size)
            self._get("mail", 4)

        return least_seconds(once, _REPEATS), size

    def _get(self, name: str, size: int) -> None:
        place = ctypes.create_string_buffer(size)
        self._native.ggml_backend_tensor_get(self._tensors[name], place, 0, size)


@contextmanager
def probing(
    device: int, kind: int, weight_bytes: int, mail_bytes: int
) -> Iterator[RemoteProbe | None]:
    """A probe of a ``ggml_backend_dev_t``; None where its memory does not hold one.

    Args:
        kind: ggml's number of the weight's type.
        weight_bytes, mail_bytes: of the weight, and of what is sent; about so many.
    """
    native = library()
    backend = native.ggml_backend_dev_init(device, None)
    context = native.ggml_init(InitParams(_DESCRIPTIONS, None, True))
    buffer = None
    try:
        blocks = native.ggml_blck_size(kind)
        row = _COLUMNS // blocks * native.ggml_type_size(kind)
        rows = max(weight_bytes // row // _ROWS_STEP, 1) * _ROWS_STEP
        tensors = {
            "weight": native.ggml_new_tensor_4d(context, kind, _COLUMNS, rows, 1, 1),
            "row": native.ggml_new_tensor_4d(context, _F32, _COLUMNS, 1, 1, 1),
            "mail": native.ggml_new_tensor_4d(context, _F32, mail_bytes // 4, 1, 1, 1),
        }
        tensors["result"] = native.ggml_mul_mat(context, tensors["weight"], tensors["row"])
        graph = native.ggml_new_graph_custom(context, 8, False)
        native.ggml_build_forward_expand(graph, tensors["result"])
        kind_of_buffer = native.ggml_backend_dev_buffer_type(device)
        buffer = native.ggml_backend_alloc_ctx_tensors_from_buft(context, kind_of_buffer)
        if not buffer:
            yield None
            return
        # Written once, so that each page is one of its own; zeros are valid blocks of every type.
        native.ggml_backend_buffer_clear(buffer, 0)
        yield RemoteProbe(native, backend, graph, tensors)
    finally:
        if buffer:
            native.ggml_backend_buffer_free(buffer)
        native.ggml_free(context)
        native.ggml_backend_free(backend)
