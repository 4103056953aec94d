"""llama.cpp, asked whether it knows an architecture."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import llama_cpp.llama_cpp as native


class Library:
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
