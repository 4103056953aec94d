"""The page about the house names every room, in the words of the rooms themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flexinfer

PACKAGE = Path(flexinfer.__file__).parent
SCRIPT = PACKAGE.parents[1] / "scripts" / "rooms"


def test_the_table_of_rooms_is_of_today() -> None:
    if not SCRIPT.exists():
        pytest.skip("installed without its documentation")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
