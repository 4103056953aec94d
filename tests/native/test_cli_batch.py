"""`flexinfer batch` over the real server: each request answered once, whatever ends a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from flexinfer.serve.library import LIBRARY

if not LIBRARY.is_file():
    pytest.skip(
        "llama.cpp's server was not built: flexinfer serve --build", allow_module_level=True
    )

REQUESTS = 40


@pytest.fixture(scope="module")
def model() -> str:
    return str(resources.files("flexinfer") / "data" / "shakespeare.gguf")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": f"ROMEO {number}:\n", "max_tokens": 16, "temperature": 0},
        }
        for number in range(REQUESTS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(source: Path, model: str, *arguments: str) -> list[str]:
    out = str(source.with_name("out.jsonl"))
    words = ["batch", str(source), out, model, "--memory", "50%", "--slots", "4", *arguments]
    return [sys.executable, "-m", "flexinfer", *words]


def run(source: Path, model: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, model, *arguments), capture_output=True, text=True, timeout=120, check=False
    )


def records(source: Path) -> dict[str, Any]:
    lines = source.with_name("out.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    by_name = {record["custom_id"]: record for record in found}
    assert len(by_name) == len(found), "a request was answered twice"
    return by_name


def texts(source: Path) -> dict[str, str]:
    return {
        name: record["response"]["body"]["choices"][0]["text"]
        for name, record in records(source).items()
    }


def answered(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def test_all_are_answered_and_the_run_says_so(source: Path, model: str) -> None:
    done = run(source, model, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["requests"] == said["answered"] == said["answered_now"] == REQUESTS
    assert said["tokens"] == 16 * REQUESTS
    assert set(texts(source)) == {f"r{number}" for number in range(REQUESTS)}
    again = run(source, model, "--json")
    assert json.loads(again.stdout)["answered_now"] == 0


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_signal_left_is_answered_by_the_same_command(
    source: Path, model: str, end: signal.Signals
) -> None:
    out = source.with_name("out.jsonl")
    with subprocess.Popen(command(source, model), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            out.exists() and out.read_text().count("\n") > 3
        ):
            time.sleep(0.005)
        process.send_signal(end)
        _, said = process.communicate(timeout=20)
    if end is not signal.SIGKILL:
        assert process.returncode == 1
        assert "the same command goes on" in said
        assert "Traceback" not in said
    assert 3 < answered(out) < REQUESTS
    assert all(r["response"]["status_code"] == 200 for r in records(source).values())
    done = run(source, model)
    assert done.returncode == 0, done.stderr
    assert set(texts(source)) == {f"r{number}" for number in range(REQUESTS)}


def test_what_requests_share_is_computed_once_a_slot(source: Path, model: str) -> None:
    shared = [
        "To be or not to be, that is the question. ",
        "The quality of mercy is no strain. ",
    ]
    lines = [
        {
            "custom_id": f"r{number}",
            "url": "/v1/completions",
            "body": {
                "prompt": shared[number % 2] * 4 + str(number),
                "max_tokens": 4,
                "temperature": 0,
                "ignore_eos": True,
            },
        }
        for number in range(REQUESTS)
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(source, model)
    assert done.returncode == 0, done.stderr
    bodies = [record["response"]["body"] for record in records(source).values()]
    asked = [body["usage"]["prompt_tokens"] for body in bodies]
    computed = sum(body["timings"]["prompt_n"] for body in bodies)
    # Each of four slots computes each beginning once, and of every request what is its own.
    own = 8
    assert computed <= 4 * 2 * max(asked) + REQUESTS * own < sum(asked)


def test_bad_lines_and_refused_requests_are_records(source: Path, model: str) -> None:
    bad = [
        "no json",
        json.dumps({"custom_id": "x", "url": "/v1/files", "body": {}}),
        json.dumps({"custom_id": "y", "url": "/v1/completions", "body": {"prompt": {}}}),
    ]
    source.write_text("\n".join(bad) + "\n" + source.read_text().splitlines()[0])
    done = run(source, model)
    assert done.returncode == 0, done.stderr
    found = records(source)
    assert found[None]["error"]["message"].startswith("line 1 is no JSON")  # type: ignore[index]
    assert "url '/v1/files'" in found["x"]["error"]["message"]
    assert 400 <= found["y"]["response"]["status_code"] < 500
    assert found["r0"]["response"]["status_code"] == 200


def test_a_full_disk_ends_it_in_a_sentence(source: Path, model: str) -> None:
    words = command(source, model)
    words[words.index(str(source.with_name("out.jsonl")))] = "/dev/full"
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot write /dev/full: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_embeddings(source: Path, model: str) -> None:
    line = {"custom_id": "e", "url": "/v1/embeddings", "body": {"input": "to be or not to be"}}
    source.write_text(json.dumps(line))
    done = run(source, model)
    assert done.returncode == 0, done.stderr
    body = records(source)["e"]["response"]["body"]
    assert len(body["data"][0]["embedding"]) > 16
