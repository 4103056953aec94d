"""The list of architectures beside the library that it speaks for."""

from __future__ import annotations

import ctypes
import re
import struct
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as native
import pytest

from flexinfer.gguf.architectures import ARCHITECTURES

pytestmark = pytest.mark.native


class _Library:
    """Asks llama.cpp whether it knows an architecture, with a header that has nothing else."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "header.gguf"
        self._said: list[bytes] = []
        self._params = native.llama_model_default_params()
        self._params.vocab_only = True

    def knows(self, name: str) -> bool:
        key, value = b"general.architecture", name.encode()
        self._path.write_bytes(
            b"GGUF"
            + struct.pack("<IQQQ", 3, 0, 1, len(key))
            + key
            + struct.pack("<IQ", 8, len(value))
            + value
        )
        said: list[bytes] = []
        listen = native.llama_log_callback(lambda level, text, data: said.append(text))
        native.llama_log_set(listen, ctypes.c_void_p(0))
        try:
            model = native.llama_model_load_from_file(str(self._path).encode(), self._params)
        finally:
            from llama_cpp._logger import llama_log_callback

            native.llama_log_set(llama_log_callback, ctypes.c_void_p(0))
        assert not model
        return b"unknown model architecture" not in b"".join(said)


@pytest.fixture
def library(tmp_path: Path) -> _Library:
    return _Library(tmp_path)


def test_the_library_has_each_that_is_listed(library: _Library) -> None:
    assert {name for name in ARCHITECTURES if not library.knows(name)} == set()
    assert not library.knows("llamas")


@pytest.mark.slow
def test_the_library_has_no_other(library: _Library) -> None:
    """Every text in the library that could be a name, and every end of one, is asked about."""
    content = (Path(llama_cpp.__file__).parent / "lib/libllama.so").read_bytes()
    texts = {text.decode() for text in re.findall(rb"[a-z0-9][a-z0-9_.-]{1,40}(?=\0)", content)}
    names = {text[start:] for text in texts for start in range(len(text) - 1)}
    assert {name for name in names if library.knows(name)} == ARCHITECTURES
