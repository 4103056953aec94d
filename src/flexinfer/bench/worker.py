"""One run, in a process of its own: ``python -m flexinfer.bench.worker JOB``.

JOB is a JSON document; the result is one JSON document on standard output. Opening the model and
the first token are timed apart from the tokens after it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise, takewhile
from typing import Any

from flexinfer.bench.cases import COMPUTE, DRIVE, MMAP, STOCK
from flexinfer.bench.plain import open_plain

_TRANSFER = 8 << 20
_WINDOW = 128 << 20
# Fewer steps make no median.
_LEAST_STEPS = 2


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The figures of one job: a case with model, context, tokens and seconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["cores"]])
    if job["system"] == DRIVE:
        return _drive(job)
    began = time.perf_counter()
    with closing(_open(job)) as llm:
        return {"open_s": time.perf_counter() - began, **_generate(llm, job)}


def _open(job: dict[str, Any]) -> Any:
    options = {
        "n_ctx": job["ctx"],
        "n_batch": job["ubatch"],
        "n_ubatch": job["ubatch"],
        "n_threads": job["cores"],
        "n_threads_batch": job["cores"],
    }
    options["repack"] = job["repack"]
    if job["system"] in (MMAP, COMPUTE, STOCK):
        return open_plain(job["model"], use_mmap=job["system"] != COMPUTE, **options)
    from flexinfer import Llama

    window = job["window"]
    return Llama(
        job["model"],
        memory=job["budget"],
        strategy=job["system"],
        window=window,
        verbose=False,
        **options,
    )


def _generate(llm: Any, job: dict[str, Any]) -> dict[str, Any]:
    size = llm.n_vocab()
    prompt = [(300 + 7 * i) % size for i in range(job["prompt"])]
    began = time.perf_counter()
    tokens, times = [], [began]
    before = _counters(llm)
    for token in llm.generate(prompt, temp=0.0):
        tokens.append(int(token))
        times.append(time.perf_counter())
        if len(tokens) == 1:
            before = _counters(llm)
        late = times[-1] - began > job["seconds"] and len(tokens) > _LEAST_STEPS
        if len(tokens) == job["tokens"] or late:
            break
    spent = {name: value - before[name] for name, value in _counters(llm).items()}
    steps = [later - earlier for earlier, later in pairwise(times[1:])]
    figures = {
        "tokens": tokens,
        "first_s": times[1] - began,
        "steps_s": steps,
        "step_s": statistics.median(steps),
        "per_token": {name: value / len(steps) for name, value in spent.items()},
    }
    if hasattr(llm, "plan"):
        figures |= _plan_figures(llm)
    return figures


def _counters(llm: Any) -> dict[str, float]:
    """Seconds and bytes so far: of the process, and of the engine where it is ours."""
    with open("/proc/self/io") as file:
        io = dict(line.split(": ") for line in file.read().splitlines())
    counters = {"drive_bytes": float(io["read_bytes"]), "cpu_s": time.process_time()}
    if hasattr(llm, "stats"):
        stats = llm.stats
        counters |= {
            "compute_s": stats.compute_s,
            "wait_s": stats.wait_s,
            "read_bytes": float(stats.read_bytes),
        }
    return counters


def _plan_figures(llm: Any) -> dict[str, Any]:
    plan = llm.plan
    return {
        "predicted_s": 1 / plan.expected_tok_s,
        "predicted_from": {
            "drive": plan.rates.drive,
            "compute_s": plan.rates.compute_s,
            "source": plan.rates.source,
        },
        "memory": llm.memory_use(),
        "locked_bytes": plan.locked_bytes,
        "streamed_bytes": plan.streamed_bytes,
        "rows_bytes": sum(w.nbytes for w in plan.weights if w.use.value in ("rows", "idle")),
        "planned_window": plan.window,
        "ctx": plan.ctx,
        "ubatch": plan.ubatch,
        "mode": plan.mode,
    }


def _drive(job: dict[str, Any]) -> dict[str, Any]:
    """Our reader through the whole model, or as far as it comes in time; nothing computed."""
    from flexinfer.gguf.catalogue import read_catalogue
    from flexinfer.memory.pages import Arena
    from flexinfer.rates.drive import drive_rate
    from flexinfer.reading.file_reader import open_reader
    from flexinfer.reading.sweep import sweep

    paths = read_catalogue(job["model"]).paths
    probed = drive_rate(paths)
    with (
        closing(Arena(_WINDOW)) as arena,
        closing(open_reader(paths, threads=probed.threads, piece=probed.piece)) as reader,
    ):
        arena.view(0, _WINDOW)[:] = bytes(_WINDOW)  # the first touch is no part of the rate
        began, cpu = time.perf_counter(), time.process_time()
        in_time = takewhile(lambda _: time.perf_counter() - began <= job["seconds"], _ranges(paths))
        total = sweep(reader, arena, in_time, _TRANSFER)
        seconds = time.perf_counter() - began
    return {
        "rate": total / seconds,
        "read_bytes": total,
        "cpu_s": time.process_time() - cpu,
        "threads": probed.threads,
        "piece": probed.piece,
    }


def _ranges(paths: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """All files in pieces, the last of each as long as it is."""
    for file, path in enumerate(paths):
        size = os.path.getsize(path)
        for start in range(0, size, _TRANSFER):
            yield file, start, min(_TRANSFER, size - start)


def main(argument: str) -> int:
    from flexinfer.errors import FlexInferError

    try:
        result = run(json.loads(argument))
    except FlexInferError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
