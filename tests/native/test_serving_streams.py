"""Standard streams of the commands that serve until they are ended, and of `batch`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from support.command import FLEXINFER, in_shell
from support.terminals import TERMINALS
from support.workers import free_port

from flexinfer.serve.library import LIBRARY

if not LIBRARY.is_file():
    pytest.skip(
        "llama.cpp's server was not built: flexinfer serve --build", allow_module_level=True
    )

_MODEL = str(files("flexinfer") / "data" / "shakespeare.gguf")
_SIZES = ("--slots", "2", "--ctx", "128", "--weight-memory", "2MiB")
# A child that does not end by itself or when told to is not waited for any longer.
_SECONDS = 120
_SERVING = ["serve", "worker"]


def _words(name: str, port: int) -> tuple[str, ...]:
    if name == "serve":
        return (name, _MODEL, *_SIZES, "--port", str(port))
    return (name, "--memory", "150MiB", "--port", str(port))


def _clean(said: bytes) -> None:
    for word in (b"Traceback", b"Exception ignored"):
        assert word not in said


@contextmanager
def _running(
    name: str, redirections: str, *options: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command until the end, its streams as a shell redirects them, and its port."""
    port = free_port()
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", *FLEXINFER, *_words(name, port)]
    process = subprocess.Popen(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | variables,
    )
    late = threading.Timer(_SECONDS, process.kill)
    late.start()
    try:
        yield process, port
    finally:
        late.cancel()
        process.kill()
        process.communicate()


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=_SECONDS)


@pytest.mark.parametrize("name", _SERVING)
@pytest.mark.parametrize(
    ("redirection", "why"),
    [("> /dev/full", b"no space left on device"), (">&-", b"it is closed")],
)
def test_a_ready_line_that_cannot_be_written_is_told(
    name: str, redirection: str, why: bytes
) -> None:
    """Whoever started it waits for that line, and would for ever."""
    with _running(name, redirection, "--json") as (process, _):
        _, said = process.communicate(timeout=_SECONDS)
        _clean(said)
        assert process.returncode == 1
        assert said.splitlines()[-1] == b"flexinfer: standard output cannot be written: " + why


@pytest.mark.parametrize("name", _SERVING)
@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-", "<&-", "<&- 2>&-"])
def test_other_streams_that_are_full_or_closed_cost_nothing(name: str, redirection: str) -> None:
    with _running(name, redirection, "--json") as (process, port):
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready
        socket.create_connection(("127.0.0.1", port), _SECONDS).close()
        _, said = _end(process)
        _clean(said)


@pytest.mark.parametrize("name", _SERVING)
def test_a_reader_that_leaves_needs_no_message(name: str) -> None:
    with _running(name, "", "--json") as (process, _):
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate(timeout=_SECONDS)
        _clean(said)
        assert process.returncode == 1
        assert b"cannot be written" not in said


@pytest.mark.parametrize("name", _SERVING)
@pytest.mark.parametrize("variables", TERMINALS, ids=lambda variables: "-".join(variables))
def test_terminals_of_all_kinds(name: str, variables: dict[str, str]) -> None:
    with _running(name, "", "--json", **variables) as (process, _):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())
        _, said = _end(process)
        _clean(said)
        assert b"\x1b" not in said
        if "PYTHONIOENCODING" in variables:
            said.decode(variables["PYTHONIOENCODING"])


@pytest.fixture
def batch(tmp_path: Path) -> tuple[str, ...]:
    """A batch of one request."""
    source = tmp_path / "in.jsonl"
    body = {"prompt": "ROMEO:", "max_tokens": 2, "temperature": 0}
    request = {"custom_id": "é", "method": "POST", "url": "/v1/completions", "body": body}
    source.write_text(json.dumps(request) + "\n")
    words = ("batch", str(source), str(tmp_path / "out.jsonl"), _MODEL)
    return (*words, "--weight-memory", "2MiB", "--ctx", "128", "--slots", "1")


@pytest.mark.parametrize(
    ("redirection", "why"),
    [("> /dev/full", b"no space left on device"), (">&-", b"it is closed")],
)
def test_a_batch_is_answered_whoever_reads_of_it(
    batch: tuple[str, ...], redirection: str, why: bytes
) -> None:
    done = in_shell(redirection, *batch, "--json")
    _clean(done.stderr)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"flexinfer: standard output cannot be written: " + why
    if redirection == ">&-":  # known before the first request is sent
        assert not Path(batch[2]).exists()
    else:
        assert Path(batch[2]).read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-", "<&-", "<&- 2>&-"])
def test_a_batch_needs_no_other_stream(batch: tuple[str, ...], redirection: str) -> None:
    done = in_shell(redirection, *batch, "--json")
    _clean(done.stderr)
    assert done.returncode == 0
    assert json.loads(done.stdout)["requests"] == 1


@pytest.mark.parametrize("variables", TERMINALS, ids=lambda variables: "-".join(variables))
def test_a_batch_in_terminals_of_all_kinds(
    batch: tuple[str, ...], variables: dict[str, str]
) -> None:
    done = in_shell("", *batch, **variables)
    _clean(done.stderr)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stderr
    assert done.stdout == b""
    if "PYTHONIOENCODING" in variables:
        done.stderr.decode(variables["PYTHONIOENCODING"])
