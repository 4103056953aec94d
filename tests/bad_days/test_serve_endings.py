"""How a serving process ends: by signals, with its parent, killed, or before it has begun."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.command import assert_one_sentence, flexinfer
from support.served import Served, events, serving

pytestmark = pytest.mark.usefixtures("no_leaks")

MODEL = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
SIZES = ("--slots", 4, "--ctx", 256, "--weight-memory", "2MiB")
ENDLESS = {"prompt": "ROMEO:", "n_predict": -1, "ignore_eos": True}
# Of a process that is told to end; the promise is two.
PATIENCE = 5


@pytest.fixture
def endless() -> Iterator[Served]:
    """A server whose answers never end."""
    with serving(MODEL, *SIZES, "--", "--context-shift") as served:
        yield served


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_gives_each_open_request_an_error_and_ends(
    endless: Served, number: signal.Signals
) -> None:
    whole: list[Any] = []
    plain = threading.Thread(target=lambda: whole.append(endless.post("/completion", ENDLESS)))
    plain.start()
    with ExitStack() as stack:
        streams = [
            stack.enter_context(endless.stream(path, ENDLESS | body))
            for path, body in (
                ("/completion", {}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "O"}]}),
            )
        ]
        for stream in streams:
            assert next(events(stream))
        endless.process.send_signal(number)
        last = [list(events(stream))[-1] for stream in streams]
    plain.join(PATIENCE)
    assert endless.process.wait(PATIENCE) == 0
    assert [event["error"]["code"] for event in last] == [503, 503]
    assert all("the server is stopping" in event["error"]["message"] for event in last)
    ((status, answer),) = whole
    assert status == 503
    assert "the server is stopping" in answer["error"]["message"]
    assert "Traceback" not in endless.log


def test_a_second_signal_ends_at_once(endless: Served) -> None:
    with endless.stream("/completion", ENDLESS) as stream:
        next(events(stream))
        endless.process.send_signal(signal.SIGTERM)
        endless.process.send_signal(signal.SIGINT)
        assert endless.process.wait(PATIENCE) in (0, 1)


def test_an_idle_server_ends_in_order(endless: Served) -> None:
    assert endless.end() == 0
    assert "Traceback" not in endless.log


def test_what_is_killed_leaves_its_port_and_nothing_else() -> None:
    with serving(MODEL, *SIZES) as first:
        port = first.port
        with first.stream("/completion", ENDLESS) as stream:
            next(events(stream))
            children = Path(f"/proc/{first.process.pid}/task/{first.process.pid}/children")
            assert children.read_text() == ""
            first.process.kill()
            first.process.wait(PATIENCE)
            with suppress(HTTPException, OSError):
                assert [event for event in events(stream) if "error" in event] == []
    with serving(MODEL, *SIZES, "--port", port) as second:
        assert second.complete(prompt="ROMEO:", n_predict=1)["tokens_predicted"] == 1


def test_a_child_ends_when_its_parent_lets_go_of_the_pipe() -> None:
    ours, theirs = os.pipe()
    with serving(MODEL, *SIZES, "--end-with-fd", ours, keep=(ours,)) as served:
        os.close(ours)
        assert served.get("/health")[0] == 200
        os.close(theirs)
        assert served.process.wait(PATIENCE) == 0


def test_a_pipe_that_is_not_open_is_said() -> None:
    done = flexinfer("serve", MODEL, "--end-with-fd", 987, "--weight-memory", "2MiB", "--port", 0)
    assert_one_sentence(done, "--end-with-fd 987: Bad file descriptor")


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = flexinfer("serve", MODEL, *SIZES, "--port", port)
    assert_one_sentence(done, f"port {port} of 127.0.0.1 is taken", "--port")


def test_an_address_that_is_not_ours_is_said() -> None:
    done = flexinfer("serve", MODEL, *SIZES, "--port", 0, "--host", "192.0.2.1")
    assert_one_sentence(done, "192.0.2.1 cannot be listened on", "--host")


def test_two_servers_beside_each_other_answer_alike() -> None:
    asked: dict[str, Any] = {"prompt": "ROMEO:", "n_predict": 24, "temperature": 0}
    with serving(MODEL, *SIZES) as one, serving(MODEL, *SIZES) as other:
        assert one.port != other.port
        assert one.complete(**asked)["content"] == other.complete(**asked)["content"]


def test_a_signal_before_it_is_ready_ends_it() -> None:
    command = [sys.executable, "-m", "flexinfer", "serve", str(MODEL), "--port", "0", "--json"]
    for delay in (0.1, 0.3, 0.5, 0.6, 0.7):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(delay)
        child.terminate()
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode in (0, 1, 143, -signal.SIGTERM), err
        assert "Traceback" not in err
        assert out == "" or json.loads(out)["pid"] == child.pid
