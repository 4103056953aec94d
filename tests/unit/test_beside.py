"""Of two processes that run tests, one waits while the other one's is to be alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_TESTS = '''
import os, time, pytest
from pathlib import Path

def meet():
    """Wait until tests of two processes were here at once; a busy machine starts one much later."""
    here = Path(f"here-{os.getpid()}")
    here.touch()
    until = time.monotonic() + 5
    while not Path("met").exists() and time.monotonic() < until:
        if len([*Path().glob("here-*")]) > 1:
            Path("met").touch()
        time.sleep(0.01)
    here.unlink()

def spend(kind):
    began = time.monotonic()
    if kind == "beside" and "PYTEST_XDIST_WORKER" in os.environ:
        meet()
    time.sleep(0.1)
    with Path("spans").open("a") as file:
        file.write(f"{kind} {began} {time.monotonic()}\\n")

@pytest.mark.parametrize("number", range(6))
def test_beside(number):
    spend("beside")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(4))
def test_alone(number):
    spend("alone")
    if number == 1:
        os._exit(0)
'''
_OPTIONS = ("-q", "-p", "xdist", "-p", "support.beside", "-p", "no:cacheprovider")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_spans.py").write_text(_TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    outside = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *_OPTIONS, f"--basetemp={folder / 'temp'}", *options],
        cwd=folder,
        env=outside | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def spans(folder: Path) -> list[tuple[float, float, str]]:
    """When each test began and ended, and its kind, in the order of time."""
    lines = [line.split() for line in (folder / "spans").read_text().splitlines()]
    return sorted((float(began), float(ended), kind) for kind, began, ended in lines)


def test_one_that_is_alone_has_no_other_beside_it(tmp_path: Path) -> None:
    """Nor has the process that takes the place of one that a test ended, which is a failure."""
    done = run(tmp_path, "--numprocesses", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 9 passed" in done.stdout, done.stdout + done.stderr
    ran = spans(tmp_path)
    overlaps = [
        {first[2], second[2]}
        for number, first in enumerate(ran)
        for second in ran[number + 1 :]
        if second[0] < first[1]
    ]
    assert len(ran) == 10
    assert {"beside"} in overlaps
    assert all(kinds == {"beside"} for kinds in overlaps)


def test_one_process_runs_them_in_their_order(tmp_path: Path) -> None:
    done = run(tmp_path, "--numprocesses", "0", "-k", "not alone or 0 or 2")
    assert "8 passed" in done.stdout, done.stdout + done.stderr
    assert [kind for _, _, kind in spans(tmp_path)] == ["beside"] * 6 + ["alone"] * 2
