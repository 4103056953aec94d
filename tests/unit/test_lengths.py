"""Nothing grows past what can be read at once: a module is one concept, a function one step."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flexinfer

ROOT = Path(flexinfer.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
MOST_IN_MODULE, MOST_IN_FUNCTION = 250, 40


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_one_concept(module: str) -> None:
    lines = len((ROOT / module).read_text().splitlines())
    assert lines <= MOST_IN_MODULE, f"{module} has {lines} lines"


@pytest.mark.parametrize("module", MODULES)
def test_a_function_is_one_step(module: str) -> None:
    long = {
        (module, node.name): node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= MOST_IN_FUNCTION
    }
    assert long == {}
