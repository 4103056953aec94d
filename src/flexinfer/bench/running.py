"""Runs one case as a worker under its limits, and watches it from outside."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from flexinfer.bench.cases import COMPUTE, MMAP, STOCK, Case
from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.errors import EngineError, UnsupportedError
from flexinfer.machine.cgroups import PROC
from flexinfer.machine.machine import Machine, device_of
from flexinfer.own_python import own_module
from flexinfer.planning.kernels import Kernels
from flexinfer.reading.open_file import cached_fraction
from flexinfer.sizes import format_figure, format_size

# Below this a wait for the child would be missed by the samples of short runs.
_EVERY_SECONDS = 0.1
_SAMPLES = 120
# So long what cannot be expected to work is given at least.
_TRIED_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Job:
    """What all runs of one call have in common.

    Attributes:
        paths: files of the model, the first one first.
        prompt: tokens of the prompt.
        tokens: tokens generated, fewer when `seconds` are over; two steps at least.
        ubatch: prompt tokens a pass; the same for every system, or the tokens could differ.
        kernels: of what is compared, and of the bound's half.
    """

    paths: Sequence[str]
    prompt: int = 16
    tokens: int = 16
    seconds: float = 60.0
    ctx: int = 512
    ubatch: int = 32
    kernels: Kernels = Kernels.PLAIN

    @property
    def facts(self) -> dict[str, Any]:
        """What results of different jobs must not differ in."""
        kernels = self.kernels.value
        return {"prompt": self.prompt, "tokens": self.tokens, "ctx": self.ctx, "kernels": kernels}

    def kernels_of(self, case: Case) -> Kernels:
        """Stock llama.cpp packs; mapped, it is the one that does not."""
        return {STOCK: Kernels.PACKED, MMAP: Kernels.PLAIN}.get(case.system, self.kernels)


def group_trouble(path: str, *, throttled: bool) -> str | None:
    """Why this process cannot limit workers; None when it can."""
    device = device_of(path)
    if throttled and device is None:
        return f"{path} is on no drive that could be slowed down"
    reads = {device: 1 << 40} if throttled and device else None
    try:
        with limited(memory=1 << 40, read_bps=reads):
            return None
    except UnsupportedError as error:
        return str(error)


def run_case(case: Case, job: Job, *, grouped: bool = True) -> dict[str, Any]:
    """The figures of one run; ``{"failed": sentence}`` when it did not end well.

    Raises:
        UnsupportedError: a limit is needed that cannot be set here.
    """
    kernels = job.kernels_of(case)
    document = case.to_json() | {
        "repack": kernels is Kernels.PACKED,
        "model": job.paths[0],
        "prompt": job.prompt,
        "tokens": job.tokens,
        "seconds": job.seconds,
        "ctx": job.ctx,
        "ubatch": job.ubatch,
    }
    if case.system in (COMPUTE, STOCK) and not case.budget:
        weights, cached = sum(map(os.path.getsize, job.paths)), 0.0
        if weights > Machine.detect().ceiling:
            reason = f"{format_size(weights)} of weights do not fit in memory"
            return {"failed": reason, "wall_s": 0.0}
    else:
        cached = drop_cache(job.paths)
    with _group(case, job, grouped) as group:
        if case.system == STOCK and case.budget:
            result = _seen(_watched(document, group, max(2 * job.seconds, _TRIED_SECONDS)))
        else:
            result = _watched(document, group)
    facts = {"limited": group is not None, "cached_before": round(cached, 3)}
    return result | facts | {"kernels": kernels.value}


def _seen(result: dict[str, Any]) -> dict[str, Any]:
    """A run that is expected to fail, as what was seen of it; it is not repeated."""
    failed = result.get("failed")
    rate = f"{format_figure(1 / result['step_s'])} tokens/s" if "step_s" in result else "no answer"
    return {"seen": failed or rate, "wall_s": result["wall_s"]}


def drop_cache(paths: Sequence[str]) -> float:
    """Let go of the files' pages in the page cache; the fraction that stayed.

    Pages that another process has mapped stay.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return cached_fraction(paths)


@contextmanager
def _group(case: Case, job: Job, grouped: bool) -> Iterator[LimitedGroup | None]:
    memory = case.budget or None
    device = device_of(job.paths[0])
    reads = {device: case.drive} if case.drive and device else None
    if reads is None and (not grouped or memory is None):
        if case.system == MMAP:
            raise UnsupportedError("mmap keeps to a budget only in a control group")
        yield None
        return
    with limited(memory=memory if grouped else None, read_bps=reads) as group:
        yield group


def _watched(
    document: dict[str, Any], group: LimitedGroup | None, most_s: float = math.inf
) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as answer:
        busy, began = _busy_seconds(), time.monotonic()
        process = subprocess.Popen(
            own_module("flexinfer.bench.worker", json.dumps(document)),
            stdout=answer,
            stderr=errors,
            preexec_fn=group.join if group is not None else None,
        )
        code, own, curve = _wait(process, group, began, most_s)
        wall = time.monotonic() - began
        outside = (_busy_seconds() - busy - own) / (wall * (os.cpu_count() or 1))
        kills = group.oom_kills if group is not None else 0
        if code != 0 and wall > most_s:
            return {"failed": f"no answer within {most_s:.0f} s", "wall_s": wall}
        if code != 0:
            return {"failed": _reason(code, kills, errors), "wall_s": wall}
        answer.seek(0)
        result: dict[str, Any] = json.load(answer)
    return result | {
        "wall_s": wall,
        "outside_cpu": round(max(outside, 0.0), 3),
        "peak": max((usage for _, usage in curve), default=0),
        "memory_curve": _thin(curve),
        "oom_kills": kills,
    }


def _wait(
    process: subprocess.Popen[bytes], group: LimitedGroup | None, began: float, most_s: float
) -> tuple[int, float, list[tuple[float, int]]]:
    """Exit code, processor seconds, and (seconds, bytes) of the group while it ran.

    After `most_s` seconds it is ended.
    """
    curve: list[tuple[float, int]] = []
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage.ru_utime + usage.ru_stime, curve
            if group is not None:
                curve.append((round(time.monotonic() - began, 2), group.usage))
            if time.monotonic() - began > most_s:
                process.kill()
            time.sleep(_EVERY_SECONDS)
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        raise


def _thin(curve: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most `_SAMPLES` of the points; each keeps the largest of those it stands for."""
    step = -(-len(curve) // _SAMPLES) or 1
    chunks = [curve[at : at + step] for at in range(0, len(curve), step)]
    return [(chunk[0][0], max(usage for _, usage in chunk)) for chunk in chunks]


def _reason(code: int, kills: int, errors: IO[str]) -> str:
    if kills:
        return "killed by the kernel: the group's memory was not enough"
    errors.seek(0)
    lines = [line for line in errors.read().splitlines() if line.strip()]
    return lines[-1] if lines else f"the worker ended with {code}"


def _busy_seconds() -> float:
    """Processor seconds of the whole machine that were not idle.

    Source: first line of ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal.
    """
    line = (PROC / "stat").read_text().split("\n", 1)[0]
    numbers = [int(word) for word in line.split()[1:]]
    if len(numbers) < 8:
        raise EngineError("/proc/stat has no processor times")
    return (sum(numbers[:8]) - numbers[3] - numbers[4]) / _TICKS
