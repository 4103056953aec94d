"""The functions of ggml, in the library that is installed; what they take is in the mirror."""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint8, c_void_p
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flexinfer.errors import UnsupportedError
from flexinfer.native.check_abi import check_abi
from flexinfer.native.mirror import BufferInterface, CPlan, InitParams

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_version": (c_char_p, []),
    "ggml_tensor_overhead": (c_size_t, []),
    "ggml_op_name": (c_char_p, [c_int]),
    "ggml_type_name": (c_char_p, [c_int]),
    "ggml_blck_size": (c_int64, [c_int]),
    "ggml_type_size": (c_size_t, [c_int]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_init": (c_void_p, [InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_4d": (c_void_p, [c_void_p, c_int] + [c_int64] * 4),
    "ggml_view_1d": (c_void_p, [c_void_p, c_void_p, c_int64, c_size_t]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_mul_mat_id": (c_void_p, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "ggml_flash_attn_ext": (c_void_p, [c_void_p] * 5 + [c_float] * 3),
    "ggml_set_name": (c_void_p, [c_void_p, c_char_p]),
    "ggml_get_name": (c_void_p, [c_void_p]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_graph_nodes": (c_void_p, [c_void_p]),
    "ggml_graph_plan": (CPlan, [c_void_p, c_int, c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_set_abort_callback": (None, [c_void_p, c_void_p, c_void_p]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_free": (None, [c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_register": (None, [c_void_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_buft_alloc_buffer": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_buffer_init_tensor": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_dev_init": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_dev_buffer_type": (c_void_p, [c_void_p]),
    "ggml_backend_dev_count": (c_size_t, []),
    "ggml_backend_dev_get": (c_void_p, [c_size_t]),
    "ggml_backend_dev_type": (c_int, [c_void_p]),
    "ggml_backend_dev_name": (c_char_p, [c_void_p]),
    "ggml_backend_dev_memory": (None, [c_void_p, c_void_p, c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_clear": (None, [c_void_p, c_uint8]),
    "ggml_log_get": (None, [c_void_p, c_void_p]),
    "ggml_log_set": (None, [c_void_p, c_void_p]),
    "ggml_set_abort_callback": (c_void_p, [c_void_p]),
    "ggml_backend_buffer_init": (c_void_p, [c_void_p, BufferInterface, c_void_p, c_size_t]),
}


class Library:
    """The ggml functions of the library that ``libllama.so`` loads."""

    def __init__(self, folder: Path) -> None:
        self._parts = [
            # The soname file is the one libllama maps: whoever is first, both have the same handle
            # and the same device registry.
            ctypes.CDLL(str(folder / f"lib{name}.so.0"))
            for name in ("ggml-base", "ggml-cpu", "ggml")
        ]
        for name, (result, arguments) in _SIGNATURES.items():
            function = self._find(name)
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)

    @property
    def runtime(self) -> ctypes.CDLL:
        """A library that is linked to the C++ runtime, whose functions it finds."""
        return self._parts[0]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def _find(self, name: str) -> Any:
        for part in self._parts:
            if hasattr(part, name):
                return getattr(part, name)
        raise UnsupportedError(
            f"the installed ggml has no function {name}; install the pinned llama-cpp-python "
            "with: pip install --force-reinstall flexinfer"
        )


@lru_cache(maxsize=1)
def library() -> Library:
    """Open ggml through the installed llama-cpp-python and check its layouts once.

    Raises:
        UnsupportedError: no or another ggml, or a struct that does not fit this mirror.
    """
    # Found, not imported: the package takes 0.1 s that a plan need not wait for.
    package = find_spec("llama_cpp")
    if package is None or package.origin is None:
        raise UnsupportedError("llama-cpp-python is not installed; run pip install flexinfer again")
    native = Library(Path(package.origin).parent / "lib")
    check_abi(native)
    return native
