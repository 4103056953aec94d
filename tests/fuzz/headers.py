"""Hostile model files: opened and run in a child each, which must end by itself with a clear error.

    python headers.py INPUTS [SEED] [--seconds SECONDS]

Mutates tiny models of all architectures: bytes of the header, values of the metadata, shapes
and types of tensors, truncation. Prints one JSON document: inputs, seconds, outcomes, and the
numbers of those that crashed, hung or took too much memory, by what ggml said last;
``--only NUMBER`` runs one of them again. Ctrl-C ends it with what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import llama_cpp

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.architectures import tiny

from flexinfer import Llama
from flexinfer.errors import FlexInferError

_TYPES = ("F32", "F16", "F16", "I8", "I32", "F64")
_NUMBERS = (0, 1, 2, 3, 7, 255, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_ADDRESS_SPACE = 8 << 30
# Of the processor, and on the clock: other work may have the machine meanwhile.
_CPU_SECONDS = 20
_SECONDS = 300
# How a child ends.
_RAN, _REJECTED, _BY_LLAMA, _OTHER = 0, 10, 11, 12


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


def _child(path: Path, quiet: bool) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(_SECONDS)
    try:
        with Llama(
            str(path), weight_memory="8MiB", n_ctx=128, n_threads=1, n_ubatch=16, verbose=not quiet
        ) as llm:
            llm._ctx.decode(_batch())
    except FlexInferError as error:
        return _REJECTED if "\n" not in str(error) else _OTHER
    except (ValueError, RuntimeError):
        return _BY_LLAMA
    except BaseException:
        traceback.print_exc()
        return _OTHER
    return _RAN


def _batch() -> Any:
    batch = llama_cpp._internals.LlamaBatch(n_tokens=4, embd=0, n_seq_max=1, verbose=False)
    batch.set_batch([1, 2, 3, 0], 0, True)
    return batch


def outcome(number: int, folder: Path, quiet: bool = True) -> str:
    """Run input `number` in a child; how it ended, and what it said last when that was a crash."""
    path = mutant(number, folder)
    said = folder / "said"
    child = os.fork()
    if not child:
        if quiet:
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
        # llama.cpp's abort would start a debugger for a trace.
        os.environ["GGML_NO_BACKTRACE"] = "1"
        os._exit(_child(path, quiet))
    _, status = os.waitpid(child, 0)
    path.unlink()
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}: {_last_line(said)}"
    names = {_RAN: "ran", _REJECTED: "rejected", _BY_LLAMA: "rejected by llama.cpp"}
    return names.get(os.WEXITSTATUS(status), f"unexpected error: {_last_line(said)}")


def _last_line(said: Path) -> str:
    lines = said.read_text("utf-8", "replace").splitlines() if said.exists() else []
    # Where llama.cpp was compiled is of no interest.
    return lines[-1].rpartition("llama.cpp/")[2] if lines else "nothing said"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more then")
    parser.add_argument("--only", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only is not None:
            print(outcome(arguments.only, Path(folder), quiet=False))
            return
        outcomes: Counter[str] = Counter()
        findings: dict[str, list[int]] = {}
        first = arguments.seed * 1_000_000
        began = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(first, first + arguments.inputs):
                if time.monotonic() - began > arguments.seconds:
                    break
                found = outcome(number, Path(folder))
                outcomes[found.split(":")[0]] += 1
                if found.startswith(("signal", "unexpected")):
                    findings.setdefault(found, []).append(number)
    document = {
        "inputs": outcomes.total(),
        "seconds": round(time.monotonic() - began),
        "outcomes": outcomes,
        "findings": findings,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
