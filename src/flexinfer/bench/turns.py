"""Processes that decode on command, so that two engines can be measured in turns.

A worker opens one model, then answers one JSON line for each line it gets: ``step N`` decodes N
tokens, ``read N`` reads what N passes would read and computes nothing, ``prompt N`` computes a
prompt of N tokens, ``rows N`` passes over N sequences in a context of their own. ``together N`` and
``kept N`` pass over N tokens of one sequence: as a batch is computed, and with the bits of single
tokens. Opening and warm-up are outside all timing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flexinfer.bench.limits import LimitedGroup
from flexinfer.bench.plain import open_plain
from flexinfer.bench.row_steps import row_steps
from flexinfer.binding.private import eval_rows, forget_from
from flexinfer.errors import EngineError
from flexinfer.own_python import own_module

PROMPT = list(range(300, 316))
# Of several tokens, after one that is left out.
_PASSES = 3


class Worker:
    """One engine in a process of its own; `group` limits it."""

    def __init__(
        self, kind: str, model: str, options: dict[str, Any], group: LimitedGroup | None = None
    ) -> None:
        self._process = subprocess.Popen(
            own_module("flexinfer.bench.turns", kind, model, json.dumps(options)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=group.join if group is not None else None,
        )
        self.facts = self._answer()

    def ask(self, command: str, count: int) -> dict[str, Any]:
        """The answer to one command, as a dict of figures."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {count}\n")
        self._process.stdin.flush()
        return self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"the worker ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def open_model(kind: str, model: str, options: dict[str, Any]) -> Any:
    """The model in this process: "ours" or "plain"."""
    if kind == "plain":
        return open_plain(model, **options)
    from flexinfer import Llama

    return Llama(model, verbose=False, **options)


def _decode(llm: Any, count: int) -> list[float]:
    times = []
    for number in range(count):
        began = time.perf_counter()
        llm.eval([400 + number])
        times.append(time.perf_counter() - began)
    return times


def _read(llm: Any, count: int) -> list[float]:
    """Seconds of passes over the streamed parts with nothing computed."""
    storage = llm._engine.storage
    looked_up = {weight.name for weight in llm.plan.weights if weight.use.value == "rows"}
    sequence = [
        part
        for layout in storage.layouts.values()
        for part in layout.parts
        if not part.locked and part.name not in looked_up
    ]
    times = []
    for _ in range(count):
        began = time.perf_counter()
        storage.begin(sequence, sequence)
        for index in range(len(sequence)):
            storage.acquire(index)
            storage.release(index + 1)
        storage.end()
        times.append(time.perf_counter() - began)
    return times


def _prompt(llm: Any, count: int) -> list[float]:
    """Seconds of one prompt of `count` tokens, from an empty cache."""
    llm.reset()
    began = time.perf_counter()
    llm.eval([3 + (7 * at) % 20000 for at in range(count)])
    return [time.perf_counter() - began]


def _together(llm: Any, count: int) -> list[float]:
    """Seconds of passes over `count` tokens with logits, each after the same text."""
    before, times = llm.n_tokens, []
    for _ in range(1 + _PASSES):
        began = time.perf_counter()
        eval_rows(llm, [400 + number for number in range(count)])
        times.append(time.perf_counter() - began)
        forget_from(llm, before)
    return times[1:]


def _kept(llm: Any, count: int) -> list[float]:
    """As `_together`; each row comes out as it would alone."""
    with llm._keeping_rows():
        return _together(llm, count)


_ACTIONS: dict[str, Callable[[Any, int], list[float]]] = {
    "step": _decode,
    "read": _read,
    "prompt": _prompt,
    "rows": row_steps,
    "together": _together,
    "kept": _kept,
}


def _by_drive(llm: Any) -> list[int]:
    """Bytes that each drive with the model gave so far."""
    return [use.bytes_read for use in llm.drives]


def _compute_in_python() -> None:
    """The worst neighbour of reads and passes: it always wants the interpreter."""
    number = 0
    while True:
        number += 1


def _say(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def _serve(kind: str, model: str, options: dict[str, Any]) -> None:
    busy = options.pop("busy", False)
    llm = open_model(kind, model, options)
    llm.eval(PROMPT)
    _decode(llm, 2)
    if busy:
        threading.Thread(target=_compute_in_python, daemon=True).start()
    facts: dict[str, Any] = {}
    if kind == "ours":
        plan = llm.plan
        facts = {
            "memory": llm.memory_use(),
            "streamed": plan.streamed_bytes,
            "mode": plan.mode,
            "predicted_s": 1 / plan.expected_tok_s,
            "rows": sum(w.nbytes for w in plan.weights if w.use.value == "rows"),
        }
    _say(facts)
    for line in sys.stdin:
        command, count = line.split()
        if llm.n_tokens > llm.n_ctx() - 64:
            llm.n_tokens = len(PROMPT)
        cpu = time.process_time()
        before = (llm.stats, _by_drive(llm), llm.read_bytes) if kind == "ours" else None
        times = _ACTIONS[command](llm, int(count))
        answer: dict[str, Any] = {"times": times, "cpu_s": time.process_time() - cpu}
        if before is not None:
            done = llm.stats - before[0]
            drives = [now - then for now, then in zip(_by_drive(llm), before[1], strict=True)]
            answer |= {"wait_s": done.wait_s, "segments": done.segments, "drives": drives}
            answer["read"] = llm.read_bytes - before[2]
        _say(answer)
    llm.close()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
