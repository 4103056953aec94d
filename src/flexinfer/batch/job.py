"""One batch over one server in this process: what is left is sent while the server runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flexinfer.batch.prefixes import brought_together
from flexinfer.batch.progress import Progress
from flexinfer.batch.requests import BadLine, Request, read_requests
from flexinfer.batch.results import Results
from flexinfer.batch.sending import Sender


class Job:
    """The requests of `source` that `results` has no record of.

    Args:
        source: a batch file.
        results: of this file; records are appended.

    Raises:
        RequestError: the file cannot be read, or the results are another file's.

    Attributes:
        total: lines that ask something, answered before or not.
        left: how many of them have no record.
        only_embeddings: nothing else is asked for.
    """

    def __init__(self, source: Path, results: Results) -> None:
        self._source = source
        self._results = results
        self._error: BaseException | None = None
        self.total = self.left = 0
        self.only_embeddings = True
        for one in self._asked():
            self.total += 1
            self.left += not results.has(one)
            if isinstance(one, Request):
                self.only_embeddings &= one.url == "/v1/embeddings"
        self.progress = Progress(self.left, time.monotonic(), 0.0)

    def start(
        self,
        url: str,
        key: str | None,
        slots: int,
        bound_tok_s: float,
        *,
        stopped: Callable[[], bool],
        over: Callable[[], None],
    ) -> None:
        """Send from a thread of its own; `over` is called when all have a record, or it failed."""
        self.progress = Progress(self.left, time.monotonic(), bound_tok_s)
        sender = Sender(url, key, slots, self.progress.note, stopped)

        def send() -> None:
            try:
                sender.send(brought_together(self._asked()), self._results)
            except BaseException as error:
                self._error = error
            finally:
                over()

        threading.Thread(target=send, name="flexinfer-batch", daemon=True).start()

    def finish(self) -> None:
        """Raise what went wrong while it was sent, if anything did."""
        if self._error is not None:
            raise self._error

    def summary(self, now: float) -> dict[str, Any]:
        """What this run did, as JSON has it."""
        return {
            "requests": self.total,
            "answered": len(self._results),
            "answered_now": self.progress.answered,
            "tokens": self.progress.tokens,
            "tok_s": self.progress.rate(now),
            "bound_tok_s": self.progress.bound_tok_s,
        }

    def _asked(self) -> Iterable[Request | BadLine]:
        return read_requests(self._source)
