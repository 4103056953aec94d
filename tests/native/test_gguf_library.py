"""What we read in a header beside what ggml reads in it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.gguf_bytes import (
    CONTENT,
    HEADER,
)

from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import read_header
from flexinfer.gguf.source import FileSource
from flexinfer.gguf.types import QUANT_TYPES


class InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


@pytest.fixture(scope="module")
def ggml() -> Any:
    """The library's own reader of GGUF headers."""
    import llama_cpp

    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so.0"))
    results: dict[str, Any] = {
        "ggml_type_name": ctypes.c_char_p,
        "ggml_type_size": ctypes.c_size_t,
        "ggml_blck_size": ctypes.c_int64,
        "gguf_init_from_file": ctypes.c_void_p,
        "gguf_get_n_tensors": ctypes.c_int64,
        "gguf_get_n_kv": ctypes.c_int64,
        "gguf_get_data_offset": ctypes.c_size_t,
        "gguf_get_tensor_name": ctypes.c_char_p,
        "gguf_get_tensor_type": ctypes.c_int,
        "gguf_get_tensor_offset": ctypes.c_size_t,
        "gguf_get_tensor_size": ctypes.c_size_t,
        "gguf_free": None,
    }
    for name, result in results.items():
        getattr(library, name).restype = result
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    return library


def seen_by(ggml: Any, path: Path) -> tuple[int, list[tuple[str, int, int, int]]]:
    """Number of keys; name, type, offset and size of each tensor."""
    address = ggml.gguf_init_from_file(os.fsencode(path), InitParams(True, None))
    assert address, "ggml refuses the file"
    context = ctypes.c_void_p(address)
    data = ggml.gguf_get_data_offset(context)
    tensors = [
        (
            ggml.gguf_get_tensor_name(context, ctypes.c_int64(i)).decode(),
            ggml.gguf_get_tensor_type(context, ctypes.c_int64(i)),
            data + ggml.gguf_get_tensor_offset(context, ctypes.c_int64(i)),
            ggml.gguf_get_tensor_size(context, ctypes.c_int64(i)),
        )
        for i in range(ggml.gguf_get_n_tensors(context))
    ]
    keys = ggml.gguf_get_n_kv(context)
    ggml.gguf_free(context)
    return keys, tensors


def seen_by_us(path: Path) -> tuple[int, list[tuple[str, int, int, int]]]:
    with FileSource(path) as source:
        catalogue = read_header(source)
    tensors = [(t.name, t.type.id, t.offset, t.nbytes) for t in catalogue.tensors]
    return len(catalogue.metadata), tensors


def test_types_and_block_sizes_are_the_librarys(ggml: Any) -> None:
    count = 43  # GGML_TYPE_COUNT of the pinned version; the library does not check its argument
    theirs = {
        n: (ggml.ggml_type_name(n).decode(), ggml.ggml_blck_size(n), ggml.ggml_type_size(n))
        for n in range(count)
        if ggml.ggml_type_size(n)
    }
    assert {n: (t.name, t.block, t.nbytes) for n, t in QUANT_TYPES.items()} == theirs


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(4, HEADER - 1), st.integers(0, 255))
def test_what_we_accept_the_library_reads_alike(
    ggml: Any, tmp_path: Path, at: int, byte: int
) -> None:
    content = bytearray(CONTENT)
    content[at] = byte
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    try:
        ours = seen_by_us(path)
    except ModelFileError:
        return
    # The library reads names up to their first zero byte.
    assume(all("\0" not in name for name, *_ in ours[1]))
    assert seen_by(ggml, path) == ours


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-moe"])
def test_a_model_is_seen_as_by_the_library(
    ggml: Any, tiny_model: Callable[[str, str], Path], preset: str
) -> None:
    path = tiny_model(preset, "q4_K")
    assert seen_by_us(path) == seen_by(ggml, path)
