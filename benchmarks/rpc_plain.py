"""llama.cpp with its last layers at workers and the others mapped, for `rpc.py`: prints JSON."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as binding

import flexinfer
from flexinfer.bench.plain import open_plain
from flexinfer.cli.answer import since_start


def _devices(endpoints: list[str]) -> ctypes.Array[ctypes.c_void_p]:
    """The devices of workers, as ``llama_model_params`` has them."""
    native = ctypes.CDLL(str(Path(flexinfer.__file__).parent / "native" / "libflexinfer-rpc.so"))
    add = native.ggml_backend_rpc_add_server
    add.restype, add.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    base = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so.0"))
    get = base.ggml_backend_reg_dev_get
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
    found = [get(add(endpoint.encode()), 0) for endpoint in endpoints]
    return (ctypes.c_void_p * (len(found) + 1))(*found, None)


def main(model: str, prompt: str, tokens: int, ctx: int, layers: str, endpoints: str) -> None:
    devices = _devices(endpoints.split(","))
    counts = [int(count) for count in layers.split(",")]
    load = binding.llama_model_load_from_file

    def load_split(path: bytes, params: object) -> object:
        params.devices = ctypes.addressof(devices)  # type: ignore[attr-defined]
        return load(path, params)

    binding.llama_model_load_from_file = load_split
    options = {"n_ctx": ctx, "n_batch": 32, "n_ubatch": 32, "n_threads": 2, "n_threads_batch": 2}
    llm = open_plain(
        model,
        repack=False,
        n_gpu_layers=sum(counts),
        tensor_split=[float(count) for count in counts],
        **options,
    )
    found, times = [], []
    for token in llm.generate(llm.tokenize(prompt.encode()), temp=0.0):
        found.append(token)
        times.append(since_start())
        if len(found) == tokens:
            break
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
    print(json.dumps({"token_ids": found, "decode_tok_s": rate}))


if __name__ == "__main__":
    _, path, text, count, room, *places = sys.argv
    main(path, text, int(count), int(room), *places)
