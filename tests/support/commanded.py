"""A model in a process of its own that does as it is told: ``python -m support.commanded MODEL``.

Each line of standard input is a JSON list of a command and its arguments; each is answered by one
line of JSON. The first has the keywords that the model is opened with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from flexinfer import Llama


class Commanded:
    """The process, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def ask(self, *command: object) -> Any:
        """What comes of a command; returns when it is over."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the process ended at {command}"
        return json.loads(line)


@contextmanager
def commanded(model: Path, **options: Any) -> Iterator[Commanded]:
    """A process that has opened `model` with these keywords."""
    with subprocess.Popen(
        [sys.executable, "-m", "support.commanded", str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            child = Commanded(process)
            child.ask(options)
            yield child
        finally:
            process.kill()


class _Commands:
    """What the process can be told."""

    def __init__(self, llm: Llama) -> None:
        self._llm = llm
        self._beside: threading.Thread | None = None
        self._hoard = b""

    def answer(self, prompt: int, tokens: int) -> list[int]:
        """The likeliest tokens after a prompt of so many."""
        self._llm.reset()
        given = [3 + 7 * number % 400 for number in range(prompt)]
        return list(islice(self._llm.generate(given, temp=0.0), tokens))

    def answer_beside(self, prompt: int, tokens: int) -> None:
        """Answer in a thread of its own, which `joined` waits for."""
        self._beside = threading.Thread(target=self.answer, args=(prompt, tokens))
        self._beside.start()

    def joined(self) -> None:
        assert self._beside is not None
        self._beside.join()

    def passes(self) -> int:
        return self._llm.stats.passes

    def memory(self, size: str) -> int | None:
        self._llm.memory = size
        return self._llm.memory

    def release(self) -> None:
        self._llm.release()

    def hoard(self, nbytes: int) -> None:
        """Hold so many bytes of Python's own, which nobody planned for."""
        self._hoard = b"x" * nbytes

    def streamed(self) -> int:
        """Bytes that a token reads under the plan that holds now."""
        return self._llm.plan.streamed_bytes


def _main(model: str) -> None:
    options = json.loads(sys.stdin.readline())[0]
    with Llama(model, verbose=False, **options) as llm:
        commands = _Commands(llm)
        print("null", flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(commands, name)(*arguments)), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
