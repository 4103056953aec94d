"""Runs tests marked `own_process` in a process of their own.

The process of a whole run holds several hundred MiB that grow and shrink by what ran before, which
a test of budgets near the least that does cannot have beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_INSIDE = "FLEXINFER_TEST_OWN_PROCESS"
_SECONDS = 300


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if pyfuncitem.get_closest_marker("own_process") is None or _INSIDE in os.environ:
        return None
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, _INSIDE: "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if ended.returncode:
        pytest.fail(ended.stdout + ended.stderr, pytrace=False)
    return True
