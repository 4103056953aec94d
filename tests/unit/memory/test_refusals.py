"""Why the system refuses memory, and what to do: one sentence for each limit."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_system import FakeSystem

from flexinfer.memory.pages import map_unreserved
from flexinfer.memory.refusals import refused, refused_to_library

MIB = 1 << 20
_MAP = """
import resource, sys
from flexinfer.errors import BudgetError
from flexinfer.memory.address_space import reserve_address_space
from flexinfer.memory.pages import Arena, map_unreserved
what, number, limit = sys.argv[1], int(sys.argv[2]), 1 << 30
call = {"space": reserve_address_space, "arena": Arena, "map": lambda n: map_unreserved(n, "rows")}
resource.setrlimit(number, (limit, limit))
try:
    call[what](2 << 30)
except BudgetError as error:
    print(error)
"""


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


@pytest.mark.parametrize(
    ("what", "number", "option"),
    [
        ("space", resource.RLIMIT_AS, "-v"),
        ("arena", resource.RLIMIT_AS, "-v"),
        ("map", resource.RLIMIT_AS, "-v"),
        ("arena", resource.RLIMIT_DATA, "-d"),
        ("map", resource.RLIMIT_DATA, "-d"),
    ],
)
def test_a_limit_on_the_process_is_named(what: str, number: int, option: str) -> None:
    command = [sys.executable, "-c", _MAP, what, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"ulimit {option} lets this process map 1.00 GiB" in done.stdout
    assert f"raise it with ulimit {option} unlimited" in done.stdout
    assert "context" not in done.stdout


def test_a_limit_that_did_not_refuse_is_not_named(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda number: (1 << 30, 1 << 30))
    assert "ulimit" not in str(refused("x", MIB, system.proc))
    assert "ulimit -v" in str(refused("x", 2 << 30, system.proc))
    assert "ulimit -v" in str(refused_to_library("x", system.proc))


def test_a_system_that_promises_no_more_than_it_has_is_named(system: FakeSystem) -> None:
    system.write("proc/sys/vm/overcommit_memory", 2)
    error = str(refused("memory for weights", 5 * MIB, system.proc))
    assert error.startswith("memory for weights needs 5.00 MiB but ")
    assert "vm.overcommit_memory is 2" in error
    system.write("proc/sys/vm/overcommit_memory", 0)
    assert str(refused("x", MIB, system.proc)).endswith("no more; give a smaller memory budget")


def test_a_thread_that_cannot_be_started_is_one_sentence() -> None:
    code = """
import resource, threading
from flexinfer.errors import BudgetError
from flexinfer.memory.refusals import start_thread
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20),) * 2)
try:
    start_thread(threading.Thread(target=print, name="reader"))
except BudgetError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the thread reader cannot be started: ulimit -v lets this process map" in done.stdout


def test_what_is_granted_is_no_error() -> None:
    map_unreserved(MIB, "a test").close()
