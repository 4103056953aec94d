"""How a server of `flexinfer.Server` ends: with its parent, whatever happens to that, or before."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path

import pytest
from support.served import started
from support.victims.starting import Start

from flexinfer.errors import EngineError
from flexinfer.serve.library import LIBRARY

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(not LIBRARY.is_file(), reason="run `flexinfer serve --build`"),
]

MODEL = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
# Of what has two seconds to end.
PATIENCE = 20


def lives(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not lives(pid)


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("stays", signal.SIGKILL),
        ("stays", signal.SIGTERM),
        ("stays", signal.SIGINT),
        ("starting", signal.SIGKILL),
        ("forked", signal.SIGKILL),
        ("left", None),
        ("raised", None),
        ("dropped", None),
    ],
)
def test_a_server_ends_with_its_parent(start: Start, how: str, number: int | None) -> None:
    parent = start("serving.py", how)
    assert parent.stdout is not None
    assert parent.stderr is not None
    pid = int(parent.stdout.readline())
    try:
        if number is not None:
            assert lives(pid)
            parent.send_signal(number)
        elif how == "dropped":
            assert parent.stdout.readline() == "dropped\n"
        assert gone(pid)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        parent.stderr.close()


def test_a_forked_process_may_ask_and_close_but_not_wait(start: Start) -> None:
    parent = start("serving.py", "looked")
    out, err = parent.communicate(timeout=60)
    repr_, passes, waited, closed, after, kept = out.splitlines()[:6]
    assert re.fullmatch(r"<Server http://127.0.0.1:\d+ pid \d+>", repr_), err
    assert passes == "0"
    assert waited.startswith("UnsupportedError process ")
    assert "cannot wait for its end" in waited
    assert closed == f"{repr_.partition(' pid')[0]} closed>"
    assert after == "EngineError the server is closed; start another one"
    assert kept == "0"


def test_a_server_that_was_killed_is_said_and_leaves_nothing() -> None:
    with started(MODEL, weight_memory="2MiB", ctx=256) as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="the server ended with SIGKILL"):
            server.stats()
        with pytest.raises(EngineError, match="the server ended with SIGKILL"):
            server.wait()
        assert repr(server) == f"<Server {server.url} ended>"
    assert server.wait()


def test_a_server_that_was_told_to_end_has_ended_well() -> None:
    with started(MODEL, weight_memory="2MiB", ctx=256) as server:
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(PATIENCE)


def test_closing_ends_requests_under_way() -> None:
    flags = ("--context-shift",)
    with started(MODEL, weight_memory="2MiB", ctx=256, flags=flags) as server:
        body = b'{"prompt": "ROMEO:", "n_predict": -1, "ignore_eos": true, "stream": true}'
        with urllib.request.urlopen(f"{server.url}/completion", body, timeout=60) as stream:
            assert stream.readline().startswith(b"data: ")
            server.close()
            try:
                rest = stream.read()
            except (OSError, HTTPException):
                rest = b""
        assert b"the server is stopping" in rest
    assert not lives(server.pid)
