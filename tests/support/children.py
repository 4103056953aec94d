"""One input a child: it must end by itself, within limits, with an answer or one clear sentence."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from flexinfer.errors import FlexInferError

_ADDRESS_SPACE = 8 << 30
# Of the processor, and on the clock: other work may have the machine meanwhile.
_CPU_SECONDS = 20
_SECONDS = 300
# How a child ends.
_RAN, _REJECTED, _BY_LLAMA, _OTHER = 0, 10, 11, 12
# What is done with the input of a number, in a folder; `verbose` for a look at one of them.
Try = Callable[[int, Path, bool], object]


def outcome(attempt: Try, number: int, folder: Path, quiet: bool = True) -> str:
    """Try input `number` in a child; how it ended, and what it said last when that was a crash."""
    said = folder / "said"
    child = os.fork()
    if not child:
        if quiet:
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
        # llama.cpp's abort would start a debugger for a trace.
        os.environ["GGML_NO_BACKTRACE"] = "1"
        os._exit(_ending(attempt, number, folder, quiet))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}: {_last_line(said)}"
    names = {_RAN: "ran", _REJECTED: "rejected", _BY_LLAMA: "rejected by llama.cpp"}
    return names.get(os.WEXITSTATUS(status), f"unexpected error: {_last_line(said)}")


def _ending(attempt: Try, number: int, folder: Path, quiet: bool) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(_SECONDS)
    try:
        attempt(number, folder, not quiet)
    except FlexInferError as error:
        if not quiet:
            traceback.print_exc()
        return _REJECTED if "\n" not in str(error) else _OTHER
    except (ValueError, RuntimeError):
        traceback.print_exc()
        return _BY_LLAMA
    except BaseException:
        traceback.print_exc()
        return _OTHER
    return _RAN


def _last_line(said: Path) -> str:
    lines = said.read_text("utf-8", "replace").splitlines() if said.exists() else []
    # Where llama.cpp was compiled is of no interest.
    return lines[-1].rpartition("llama.cpp/")[2] if lines else "nothing said"


def campaign(description: str | None, attempt: Try) -> None:
    """The program: many inputs, and one JSON document of how they ended."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more then")
    parser.add_argument("--only", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only is not None:
            print(outcome(attempt, arguments.only, Path(folder), quiet=False))
            return
        outcomes: Counter[str] = Counter()
        findings: dict[str, list[int]] = {}
        first = arguments.seed * 1_000_000
        began = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(first, first + arguments.inputs):
                if time.monotonic() - began > arguments.seconds:
                    break
                found = outcome(attempt, number, Path(folder))
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
