"""One batch: its requests in the order in which they share most."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support.answering_server import answering

from flexinfer.batch.job import Job
from flexinfer.batch.results import Results

pytestmark = pytest.mark.usefixtures("no_leaks")

# Requests that are under way together may arrive in any order.
TOGETHER = 3


def fine(body: dict[str, Any]) -> tuple[int, Any]:
    return 200, {}


def test_requests_that_begin_alike_are_sent_after_each_other(tmp_path: Path) -> None:
    source, over = tmp_path / "in", threading.Event()
    lines = [
        {"custom_id": str(n), "url": "/v1/completions", "body": {"prompt": "ab"[n % 2] * 200}}
        for n in range(40)
    ]
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with answering(fine) as server, Results(tmp_path / "out") as results:
        job = Job(source, results)
        job.start(server.url, None, 1, 1.0, stopped=lambda: False, over=over.set)
        assert over.wait(60)
        job.finish()
        first = "".join(body["prompt"][0] for body in server.asked)
    assert (job.total, job.left, len(results)) == (40, 40, 40)
    assert first[: 20 - TOGETHER] == "a" * (20 - TOGETHER)
    assert first[20 + TOGETHER :] == "b" * (20 - TOGETHER)
