"""The page about the house: it names every room and every call of the seam, and nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flexinfer
from flexinfer.seam import Storage, WeightSource

PACKAGE = Path(flexinfer.__file__).parent
ROOT = PACKAGE.parents[1]
SCRIPT = ROOT / "scripts" / "rooms"
PAGE = ROOT / "docs" / "house.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="installed without its documentation")


def text() -> str:
    """The page without the table of rooms, and without drawings."""
    rest = re.sub(r"<!-- rooms -->.*<!-- end of rooms -->", "", PAGE.read_text(), flags=re.S)
    return re.sub(r"```.*?```", "", rest, flags=re.S)


def named() -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text())


def defined(tree: ast.AST, within: str) -> Iterator[str]:
    """Functions and classes, each by its name and behind the name of what it is within."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from (node.name, f"{within}.{node.name}")
            if isinstance(node, ast.ClassDef):
                yield from defined(node, node.name)


def known() -> set[str]:
    """Functions, classes and commands of the package, as the page may name them."""
    names = {f"flexinfer {path.stem}" for path in (PACKAGE / "cli").glob("*.py")}
    for path in PACKAGE.rglob("*.py"):
        names |= set(defined(ast.parse(path.read_text()), path.stem))
    return names


def exists(name: str) -> bool:
    """Whether there is such a file or folder in the repository or in the package."""
    places = [ROOT / name, PACKAGE / name, PACKAGE / f"{name}.py"]
    return any(place.exists() for place in places)


def test_the_table_of_rooms_is_of_today() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_all_that_is_named_exists() -> None:
    names = known()
    assert len(named()) > 80
    assert {name for name in named() if name not in names and not exists(name)} == set()


def test_the_seam_is_told_call_by_call() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", text(), flags=re.M)
    for protocol in (WeightSource, Storage):
        calls = [name for name in vars(protocol) if not name.startswith("_")]
        assert [row for row in rows if row in calls] == calls


def test_the_drawing_has_each_folder() -> None:
    drawing = re.findall(r"```.*?```", PAGE.read_text(), flags=re.S)[0]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"(\w+)/", drawing)) == folders


def test_first_lines_of_modules_end_in_their_line() -> None:
    """They are the rows of the table."""
    for path in PACKAGE.rglob("*.py"):
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")
        assert len(lines) == 1 or not lines[1], path
