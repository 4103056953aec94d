"""A process that is stopped for longer than anything may take, and goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

_DRIVE = """
import sys, threading
from flexinfer.reading.reader import Transfer
from flexinfer.reading.waiting import Waiting
transfer = Transfer()
def answer():
    sys.stdin.readline()
    transfer.finish()
threading.Thread(target=answer, daemon=True).start()
print("waiting", flush=True)
Waiting(hang_s=2.0).wait_for(transfer, "a weight")
print("read", flush=True)
"""
_TEMPLATE = """
import sys
import flexinfer.binding.chat_template as chat_template
chat_template.SECONDS = 4.0
loops = "{% for a in range(100000) %}{% for b in range(150) %}{% endfor %}{% endfor %}"
template = chat_template.ChatTemplate("warm", "", "")
template.render([], answer=True)
print("waiting", flush=True)
print(chat_template.ChatTemplate(loops + "done", "", "").render([], answer=True)[-4:], flush=True)
"""


@pytest.mark.parametrize(
    ("program", "said"), [(_DRIVE, "read"), (_TEMPLATE, "done")], ids=["drive", "template"]
)
def test_a_stop_is_nobodys_fault(program: str, said: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        # Long enough to begin, and not to end.
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        time.sleep(5.0)
        process.send_signal(signal.SIGCONT)
        out, errors = process.communicate("\n", timeout=60)
    assert out == f"{said}\n", errors
