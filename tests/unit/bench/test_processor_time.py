"""Processor time of processes: which are counted, and that what they take is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexinfer.bench.processor_time import below, seconds_of, share

# A child, which it waits for, takes a tenth of a second of processor time, then so does itself.
_BUSY = """
import os, sys, time
def work():
    while time.process_time() < 0.1: pass
if not os.fork():
    work()
    os._exit(0)
os.wait()
work()
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process


def test_what_its_children_took_is_counted(busy: subprocess.Popen[str]) -> None:
    assert seconds_of([busy.pid]) >= 0.18
    assert seconds_of([busy.pid, 2**22 + 1]) == seconds_of([busy.pid])


def test_who_sleeps_takes_nothing(busy: subprocess.Popen[str]) -> None:
    assert share(lambda: [busy.pid], 0.05) == 0


def test_only_descendants_of_that_program_are_found(busy: subprocess.Popen[str]) -> None:
    program = Path(sys.executable).resolve().name
    assert busy.pid in below(os.getpid(), program)
    assert busy.pid in below(os.getppid(), program)
    assert below(busy.pid, program) == []
    assert below(os.getpid(), "no such program") == []
