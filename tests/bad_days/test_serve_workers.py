"""Servers and batches that lose a worker: who asked is told, and the same process goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.served import ASKED, Served, events, serving
from support.tiny_model import TinyModel
from support.workers import Running, free_port, worker

from flexinfer.serve.library import LIBRARY

_REQUESTS = 12


@pytest.fixture
def one() -> Iterator[Running]:
    with worker() as running:
        yield running


def _is_over(served: Served, one: Running) -> bool:
    split = served.get("/engine/plan")[1]["request"]["split"]
    return split is not None and [share["name"] for share in split["after"]] == [one.endpoint]


@pytest.mark.parametrize("strike", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_tells_who_asked_and_goes_on_without(
    tiny_model: TinyModel, one: Running, strike: signal.Signals
) -> None:
    words = ("--weight-memory", "1MiB", "--slots", 2, "--ctx", 4096, "--rpc", one.endpoint)
    port = free_port()
    with serving(tiny_model("tiny-llama", "q4_0"), *words, "--port", port) as served:
        assert _is_over(served, one)
        expected = served.complete(**ASKED)["tokens"]
        with served.stream("/completion", ASKED | {"n_predict": 4000}) as answer:
            found = events(answer)
            next(found)
            one.process.send_signal(strike)
            last = list(found)[-1]
        assert f"worker {one.endpoint} is lost" in last["error"]["message"]
        assert served.process.stdout is not None
        again = json.loads(served.process.stdout.readline())
        assert again["address"] == served.ready["address"]
        assert served.complete(**ASKED)["tokens"] == expected
        assert not _is_over(served, one)


def test_a_batch_answers_all_of_it(tiny_model: TinyModel, tmp_path: Path, one: Running) -> None:
    if not LIBRARY.is_file():
        pytest.skip("llama.cpp's server was not built: flexinfer serve --build")
    source, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"prompt": "one", "max_tokens": 64, "temperature": 0}
    asked = [
        {"custom_id": f"r{k}", "method": "POST", "url": "/v1/completions", "body": body}
        for k in range(_REQUESTS)
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in asked))
    model = tiny_model("tiny-llama", "q4_0")
    words = ["batch", source, results, model, "--weight-memory", "1MiB", "--slots", 1]
    command = [sys.executable, "-m", "flexinfer", *words, "--rpc", one.endpoint, "--ctx", 256]
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    while not results.exists() or results.read_text().count("\n") < 3:
        if process.poll() is not None:
            pytest.fail(process.communicate()[1])
        time.sleep(0.05)
    one.process.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    answered = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted(line["custom_id"] for line in answered) == sorted(
        f"r{k}" for k in range(_REQUESTS)
    )
    texts = {line["response"]["body"]["choices"][0]["text"] for line in answered}
    assert len(texts) == 1, "with the worker and without it"
