"""What a command says while signals end it: each line once, whenever they come."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Its own process is signalled the moment the system took a line, before anybody learns that.
_PROGRAM = """
import io, os, signal, sys
from flexinfer.cli.main import main

def signalled(frame, event, called):
    its = getattr(called, "__self__", None)
    if event == "c_return" and isinstance(its, io.FileIO) and called.__name__ == "write":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.{name})

sys.setprofile(signalled)
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("words", [["--version"], ["--no-such-option"]])
def test_a_line_is_said_once_whenever_a_signal_comes(name: str, words: list[str]) -> None:
    program = _PROGRAM.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}[name]
    assert "Traceback" not in done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert said
    assert len(set(said)) == len(said)
