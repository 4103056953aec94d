"""What holds for tests: none imports another, none changes what is private from a string."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
TESTS = [path for path in FILES if path.parts[0] not in ("support", "fuzz")]


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def programs(tree: ast.AST) -> Iterator[ast.AST]:
    """Strings that are programs: several lines, or more than a name."""
    for node in ast.walk(tree):
        text = None
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        if text and ("import " in text or "=" in text):
            try:
                yield ast.parse(text)
            except (SyntaxError, ValueError):
                continue


def changed_privates(program: ast.AST) -> set[str]:
    """Attributes with a leading underscore that are assigned or deleted, or set by name."""
    found = set()
    for node in ast.walk(program):
        name = None
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            name = node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if (
                called == "setattr"
                and len(node.args) > 1
                and isinstance(node.args[1], ast.Constant)
            ):
                name = str(node.args[1].value)
        if name and name.startswith("_") and not name.startswith("__"):
            found.add(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_tests_share_is_in_support(path: Path) -> None:
    own = {part for test in TESTS for part in (test.stem, test.parts[0])}
    for program in (tree_of(path), *programs(tree_of(path))):
        assert {name.split(".")[0] for name in imported(program)} & own == set()
        assert not any(name.startswith(".") for name in imported(program))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_string_changes_what_is_private(path: Path) -> None:
    assert set().union(*map(changed_privates, programs(tree_of(path)))) == set()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_a_test_needs_is_told_by_its_folder(path: Path) -> None:
    marks = {
        node.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pytest.mark"
    }
    assert marks & {"native", "slow"} == set()


def test_the_rules_can_be_broken() -> None:
    text = 'code = "import test_a as t; t.b._c = 1"\nother = f"setattr({1}, \'_d\', 2)\\nx = 1"'
    found = list(programs(ast.parse(text)))
    assert [set(imported(program)) for program in found] == [{"test_a"}, set()]
    assert [changed_privates(program) for program in found] == [{"_c"}, {"_d"}]
