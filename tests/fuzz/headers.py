"""Hostile model files: opened and run in a child each, which must end by itself with a clear error.

    python headers.py INPUTS [SEED] [--seconds SECONDS]

Mutates tiny models of all architectures: bytes of the header, values of the metadata, shapes
and types of tensors, truncation. Prints one JSON document: inputs, seconds, outcomes, and the
numbers of those that crashed, hung or took too much memory, by what ggml said last;
``--only NUMBER`` runs one of them again. Ctrl-C ends it with what there is.
"""

from __future__ import annotations

import copy
import os
import random
import sys
from pathlib import Path
from typing import Any

import llama_cpp

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.architectures import tiny
from support.children import campaign

from flexinfer import Llama

_TYPES = ("F32", "F16", "F16", "I8", "I32", "F64")
_NUMBERS = (0, 1, 2, 3, 7, 255, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def mutant(number: int, folder: Path) -> Path:
    """Write input `number`."""
    chance = random.Random(number)
    name = chance.choice(sorted(tiny.models()))
    model = copy.deepcopy(tiny.models()[name])
    model.setdefault("blocks", model["metadata"]["*.block_count"][1])
    kind = chance.choice(("bytes", "bytes", "metadata", "metadata", "tensors", "cut"))
    if kind == "metadata":
        for _ in range(chance.randint(1, 2)):
            _change_metadata(model, chance)
    if kind == "tensors":
        _change_tensors(model, chance)
    path = tiny.write_model(model, folder / f"{number}.gguf")
    if kind == "bytes":
        _change_bytes(path, chance)
    if kind == "cut":
        os.truncate(path, int(path.stat().st_size * chance.random() ** 3))
    return path


def _change_metadata(model: dict[str, Any], chance: random.Random) -> None:
    key = chance.choice(sorted(model["metadata"]))
    kind, value = model["metadata"][key]
    if chance.random() < 0.2:
        del model["metadata"][key]
    elif kind in ("UINT32", "INT32", "UINT64", "n"):
        new = chance.choice(_NUMBERS)
        model["metadata"][key] = (
            kind,
            min(new, 2**31 - 1 if kind == "INT32" else 100_000 if kind == "n" else new),
        )
    elif kind.startswith("FLOAT"):
        wild = chance.choice((0.0, -1.0, 1e30, float("nan")))
        model["metadata"][key] = (kind, wild)
    elif kind.startswith("[") and isinstance(value, list):
        model["metadata"][key] = (kind, value[: chance.randint(0, len(value))] or value * 2)
    else:
        model["metadata"][key] = ("UINT32", chance.choice(_NUMBERS))


def _change_tensors(model: dict[str, Any], chance: random.Random) -> None:
    tensors = model["tensors"]
    at = chance.randrange(len(tensors))
    name, kind, sizes, *rest = tensors[at].split()
    sizes = [int(size) for size in sizes.split("x")]
    change = chance.choice(("drop", "rename", "shape", "dimension", "type"))
    if change == "drop":
        del tensors[at]
        return
    if change == "rename":
        name += "x"
    if change == "shape":
        sizes[chance.randrange(len(sizes))] = chance.choice((1, 2, 3, 31, 64, 1000))
    if change == "dimension":
        sizes = [*sizes, 2] if len(sizes) < 4 else sizes[:2]
    if change == "type":
        kind = chance.choice([other for other in _TYPES if other != kind])
    tensors[at] = " ".join([name, kind, "x".join(map(str, sizes)), *rest])


def _change_bytes(path: Path, chance: random.Random) -> None:
    with open(path, "r+b") as file:
        for _ in range(chance.choice((1, 1, 2, 8))):
            file.seek(chance.randrange(min(6000, path.stat().st_size)))
            file.write(bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))]))


def attempt(number: int, folder: Path, verbose: bool) -> None:
    """Open input `number` and decode a few tokens."""
    path = mutant(number, folder)
    try:
        with Llama(
            str(path), weight_memory="8MiB", n_ctx=128, n_threads=1, n_ubatch=16, verbose=verbose
        ) as llm:
            llm._ctx.decode(_batch())
    finally:
        path.unlink()


def _batch() -> Any:
    batch = llama_cpp._internals.LlamaBatch(n_tokens=4, embd=0, n_seq_max=1, verbose=False)
    batch.set_batch([1, 2, 3, 0], 0, True)
    return batch


if __name__ == "__main__":
    campaign(__doc__, attempt)
