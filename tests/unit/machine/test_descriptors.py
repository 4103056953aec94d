"""Models of more files than a process may have open, in processes with limits of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
from flexinfer.errors import RequestError
from flexinfer.machine.descriptors import require_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
try:
    require_descriptors({files})
except RequestError as error:
    print(error)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] > {files})
"""


@pytest.mark.parametrize(
    ("soft", "hard", "files", "said"),
    [
        (256, 256, 1, "True\n"),
        (64, 256, 100, "True\n"),
        (64, 64, 100, "the model has 100 files, but ulimit -n lets this process have 64 open"),
        (64, 128, 120, "join the shards into one file"),
    ],
)
def test_the_limit_is_raised_or_named(soft: int, hard: int, files: int, said: str) -> None:
    program = _PROGRAM.format(soft=soft, hard=hard, files=files)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert said in done.stdout
    assert done.stdout.count("\n") == 1
