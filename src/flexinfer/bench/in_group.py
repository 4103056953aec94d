"""A command in a group of just its memory: its JSON document, the sampled peak, OOM kills."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.errors import EngineError, UnsupportedError
from flexinfer.machine.machine import device_of

_TIMEOUT_SECONDS = 3 * 3600
# In which a process loads its libraries and wants no memory for weights yet.
_LOADING_SECONDS = 0.5


@dataclass(frozen=True)
class GroupRun:
    """What a command printed, and what its group held at most, in bytes; 0 without a group."""

    document: dict[str, Any]
    peak: int = 0
    kills: int = 0


def group_of(
    model: str, memory: int | None = None, rate: int | None = None
) -> AbstractContextManager[LimitedGroup | None]:
    """A group of `memory` bytes whose reads of the model's drive are held to `rate` bytes/s.

    Without either there is none.
    """
    if memory is None and rate is None:
        return nullcontext()
    device = device_of(model)
    if rate is not None and device is None:
        raise UnsupportedError(f"{model} is on no drive that could be slowed down")
    return limited(memory=memory, read_bps={device: rate} if device and rate else None)


def run_in_group(
    command: Sequence[str],
    model: str,
    memory: int | None,
    rate: int | None = None,
    *,
    while_loading: AbstractContextManager[object] | None = None,
) -> GroupRun:
    """Run `command` under the limits of `group_of`, watched from outside.

    Args:
        while_loading: is left once the process has loaded its libraries.

    Raises:
        EngineError: it failed; the message has the number of OOM kills.
    """
    with (
        group_of(model, memory, rate) as group,
        nullcontext() if group is None else group.watch() as seen,
    ):
        join = None if group is None else group.join
        with while_loading or nullcontext():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=join)
            if while_loading is not None:
                time.sleep(_LOADING_SECONDS)
        out, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
        kills = 0 if group is None else group.oom_kills
    if process.returncode:
        raise EngineError(
            f"{' '.join(command[-6:])} ended with {process.returncode}, {kills} OOM kills"
        )
    return GroupRun(json.loads(out), 0 if seen is None else seen.peak, kills)
