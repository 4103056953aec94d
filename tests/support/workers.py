"""Workers as a person starts them, on loopback, and plain llama.cpp split over them.

Run as a script it decodes scenarios with llama-cpp-python's own class, its last layers on workers,
in a process that never registers the device, and writes the logits to a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexinfer
from flexinfer.bench.limits import LimitedGroup
from flexinfer.planning import split
from support.command import FLEXINFER
from support.decoding import Logits, Scenario, decode_all
from support.plainly import require_plain

_SECONDS = 60
# Below those that Linux gives away.
_PORTS = range(20000, 32768)


@dataclass(frozen=True)
class Running:
    """A worker that runs: its endpoint, the bytes it lends, and its process."""

    endpoint: str
    memory: int
    process: subprocess.Popen[str]


@contextlib.contextmanager
def worker(
    memory: str = "200MiB",
    *options: str,
    port: int | None = None,
    group: LimitedGroup | None = None,
) -> Iterator[Running]:
    """A worker on a free port, until the end."""
    if not (Path(flexinfer.__file__).parent / "native" / "libflexinfer-rpc.so").is_file():
        pytest.skip("llama.cpp's RPC backend was not built; run flexinfer serve --build")
    chosen = port or free_port()
    command = [*FLEXINFER, "worker", "--memory", memory, "--port", str(chosen), "--json"]
    process = subprocess.Popen(
        [*command, "--threads", "2", *options],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=None if group is None else group.join,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield Running(ready["endpoint"], ready["memory"], process)
    finally:
        process.kill()
        process.communicate(timeout=_SECONDS)


def free_port() -> int:
    """A port that nobody has now, and that nobody is given who asks for any."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


def decode_split(
    path: Path,
    scenarios: Sequence[Scenario],
    folder: Path,
    counts: Sequence[int],
    places: Sequence[str],
) -> list[Logits]:
    """What plain llama.cpp gives with so many layers at each place: "here", or a worker's endpoint.

    From a process of its own, without repacking.
    """
    out = folder / f"{path.stem}-split.npz"
    asked = json.dumps([asdict(scenario) for scenario in scenarios])
    arguments = [str(path), asked, str(out), json.dumps(list(counts)), ",".join(places)]
    subprocess.run([sys.executable, __file__, *arguments], check=True, timeout=600)
    with np.load(out) as file:
        return [file[str(number)] for number in range(len(scenarios))]


def lend_layers(monkeypatch: pytest.MonkeyPatch, layers: dict[str, int]) -> None:
    """Have workers take so many layers, in this order, whatever is faster."""

    def shares(every: Any, places: Any, payload: Any, first: int) -> Any:
        by_name = {place.name: place for place in places}
        found = []
        for name, count in layers.items():
            count = min(count, len(every) - first)
            if count > 0:
                found.append(split.share_of(every, first, count, by_name[name], payload))
                first += count
        return found

    monkeypatch.setattr(split, "_shares", shares)
    monkeypatch.setattr(split, "_AS_GOOD", float("inf"))


def open_split(path: str, counts: list[int], places: list[str], options: dict[str, Any]) -> Any:
    """llama-cpp-python's own class with so many layers at each place: "here", or an endpoint."""
    import llama_cpp
    import llama_cpp.llama_cpp as binding

    library = Path(flexinfer.__file__).parent / "native" / "libflexinfer-rpc.so"
    native = ctypes.CDLL(str(library))
    add = native.ggml_backend_rpc_add_server
    add.restype, add.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    folder = Path(llama_cpp.__file__).parent / "lib"
    device_of = ctypes.CDLL(str(folder / "libggml-base.so.0")).ggml_backend_reg_dev_get
    device_of.restype, device_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
    processor = ctypes.CDLL(str(folder / "libggml-cpu.so.0")).ggml_backend_cpu_reg
    processor.restype = ctypes.c_void_p
    if places[0] == "here":
        # As llama.cpp has it by itself: what is not on a device comes first.
        places, counts = places[1:], counts[1:]
    devices = [
        device_of(processor() if place == "here" else add(place.encode()), 0) for place in places
    ]
    array = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
    load = binding.llama_model_load_from_file

    def load_split(name: bytes, params: Any) -> Any:
        params.devices = ctypes.addressof(array)
        params.use_extra_bufts = False
        return load(name, params)

    binding.llama_model_load_from_file = load_split
    try:
        return llama_cpp.Llama(
            path,
            verbose=False,
            n_gpu_layers=sum(counts),
            tensor_split=[float(count) for count in counts],
            **options,
        )
    finally:
        binding.llama_model_load_from_file = load


def _main(path: str, asked: str, out: str, counts: str, places: str) -> None:
    scenarios = [
        Scenario(**{**fields, "prompts": tuple(fields["prompts"])}) for fields in json.loads(asked)
    ]
    results = decode_all(
        lambda options: open_split(path, json.loads(counts), places.split(","), options),
        scenarios,
    )
    require_plain()
    arrays: dict[str, Any] = {str(number): bits for number, bits in enumerate(results)}
    np.savez(out, **arrays)


if __name__ == "__main__":
    _main(*sys.argv[1:])
