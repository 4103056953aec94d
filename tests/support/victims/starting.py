"""Starts a script of this folder in a process of its own, and sees it end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import victims
from support.tiny_model import TinyModel

SCRIPTS = Path(victims.__file__).parent
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tiny_model: TinyModel) -> Start:
    """Starts a script of the folder with the path of a tiny model."""

    def run(script: str, *arguments: str) -> subprocess.Popen[str]:
        path = str(tiny_model("tiny-llama", "q4_0"))
        return subprocess.Popen(
            [sys.executable, str(SCRIPTS / script), path, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS.parents[1]), *sys.path])},
        )

    return run


def ends(process: subprocess.Popen[str], code: int = 0) -> str:
    """The output of a script that must end by itself."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-3000:]
    return output
