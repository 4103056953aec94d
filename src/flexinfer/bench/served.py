"""A server as a process of its own: ready when it says so, ended after, its status told."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from flexinfer.bench.limits import LimitedGroup
from flexinfer.errors import EngineError

_END_SECONDS = 30
_SAID = 400


class Served:
    """A server that runs, or has run; `ready` is the document that it said when it was ready."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self._process = process
        self.ready = ready

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.status is None else f"ended with {self.status}"
        return f"<Served {self.address} {state}>"

    @property
    def address(self) -> str:
        """Where it answers, as ``http://127.0.0.1:41234``."""
        return str(self.ready["address"])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """What it ended with, minus the number of a signal that ended it; None while it runs."""
        return self._process.poll()


@contextmanager
def serving(command: Sequence[str], group: LimitedGroup | None = None) -> Iterator[Served]:
    """A server with `--json`, from when it is ready; it is ended after, by force if need be.

    Raises:
        EngineError: it did not start; says what it said last.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            preexec_fn=None if group is None else group.join,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise EngineError(_failure(process.wait(), said, group))
            ready = json.loads(line)
            if "error" in ready:
                raise EngineError(f"the server did not start: {ready['error']['message']}")
            yield Served(process, ready)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _failure(status: int, said: IO[str], group: LimitedGroup | None) -> str:
    said.seek(0)
    kills = 0 if group is None else group.oom_kills
    return f"the server ended with {status}, {kills} OOM kills: {said.read()[-_SAID:].strip()}"
