"""The page about the house names every room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flexinfer

PACKAGE = Path(flexinfer.__file__).parent
PAGE = PACKAGE.parents[1] / "docs" / "house.md"


def test_every_module_is_in_the_table_and_nothing_else() -> None:
    if not PAGE.exists():
        pytest.skip("installed without its documentation")
    rows = [line.split("|")[2] for line in PAGE.read_text().splitlines() if line[:1] == "|"]
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`([\w/]+)`", row)}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert named == modules | folders
