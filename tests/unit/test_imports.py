"""Which folder may know which: the block diagram of the package, as a test without exceptions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from support.loaded import loaded_by

import flexinfer

ROOT = Path(flexinfer.__file__).parent
NATIVE = {"native", "native.device", "native.graph"}
STORAGE = {"storage", "storage.experts"}
COMMANDS = {"bench", "chat", "cli"}
BELOW = {"memory", "planning", "machine", "gguf", "reading", "rates", "seam"} | NATIVE | STORAGE

# Folder, or module of the root, to what it may import besides itself and `FOR_ALL`.
FOR_ALL = {"awake", "errors", "sizes", "text", "whole_file"}
MAY_IMPORT: dict[str, set[str]] = {
    "awake": set(),
    "errors": set(),
    "sizes": set(),
    "text": set(),
    "whole_file": set(),
    "memory": set(),
    "planning": set(),
    "machine": set(),
    "seam": {"planning"},
    "gguf": {"planning"},
    "kinds": {"gguf"},
    "own_python": set(),
    "hub": {"gguf"},
    "reading": {"memory"},
    "storage": {"memory", "planning", "reading", "seam", "gguf.types", "storage.experts"},
    "storage.experts": {"memory", "planning", "reading", "seam", "gguf.types", "storage"},
    "native": {"memory", "planning", "seam"},
    "native.device": {"memory", "planning", "seam", "native", "native.graph"},
    "native.graph": {"memory", "planning", "seam", "native", "native.device"},
    "rates": {"reading", "memory", "planning", "machine", "gguf"} | NATIVE,
    "engine": BELOW - STORAGE,
    "engine.opening": BELOW | {"engine"},
    "engine.trials": BELOW | {"engine"},
    "binding": {"memory", "machine", "gguf", "kinds", "own_python"},
    "workers": {"memory", "machine", "planning", "gguf", "rates"} | NATIVE,
    "foretell": {"gguf", "kinds", "machine", "planning", "rates", "workers"},
    "planned": {"gguf", "kinds", "machine", "planning", "foretell", "workers"},
    "speculate": {"planning"},
    "pairing": BELOW - STORAGE | {"engine", "binding", "foretell", "planned", "speculate"},
    "budgeted": BELOW | {"engine", "binding", "pairing", "speculate"},
    "closing": BELOW | {"engine", "binding", "budgeted", "workers"},
    "pretrained": {"binding", "closing", "kinds", "machine", "native", "planning"},
    "packed": {"llama", "gguf", "memory", "seam"},
    "llama": BELOW
    | {"engine", "binding", "hub", "foretell", "kinds", "pretrained", "pairing", "speculate"}
    | {"workers"},
    "chat": {"llama", "binding"},
    "show": {"planning"},
    "synth": {"gguf.types"},
    "batch": set(),
    "bench": BELOW
    | {"", "engine", "binding", "hub", "foretell", "llama", "chat", "show", "synth", "serve"}
    | {"own_python"},
    "serve": BELOW - STORAGE
    | {"engine", "binding", "foretell", "speculate", "storage.experts", "workers", "own_python"},
    "cli": BELOW
    | {"", "engine", "binding", "hub", "foretell", "llama", "chat", "show", "synth", "bench"}
    | {"packed", "planned", "serve", "batch", "speculate", "workers"},
    "server": {"engine.process_one", "kinds", "serve.child", "serve.said"},
    "": {"llama", "packed", "planned", "server"},
    "__main__": {"cli"},
}

# Outside modules that not everybody may import, with those who may.
RESERVED: dict[str, set[str]] = {
    "ctypes": {"memory", "serve"} | NATIVE,
    "llama_cpp": {"llama", "pretrained", "binding", "chat", "bench", "serve", "engine.opening"},
    "click": {"cli"},
    "rich": {"cli", "show"},
    "gguf": {"synth"},
}

NOT_FOR_PLANNING = {"ctypes", "mmap", "numpy", "os", "pathlib", "socket", "subprocess"}


@lru_cache(maxsize=1)
def imports() -> dict[str, set[str]]:
    """Module to full names of everything that it imports, at any depth, without `flexinfer.`."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = set(imported(ast.parse(path.read_text())))
    return found


def source(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr in {"ctypes", "llama_cpp"}:
            # Reached through whoever imported it: `binding.ctypes`.
            yield node.attr


def inside(module: str) -> set[str]:
    """Our own modules that a module imports."""
    known = set(imports())
    found = set()
    for name in imports()[module]:
        if name.split(".")[0] == "flexinfer":
            parts = name.split(".")[1:]
            while ".".join(parts) not in known:
                parts.pop()
            found.add(".".join(parts))
    return found - {module}


def outside(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports()[module]} - {"flexinfer"}


def rooms(module: str) -> set[str]:
    """The names under which a module may stand in the tables: its own, its folder's."""
    return {module, folder(module)}


def folder(module: str) -> str:
    parent, _, _ = module.rpartition(".")
    return (
        module if (ROOT / module.replace(".", "/") / "__init__.py").exists() else parent or module
    )


def test_each_folder_has_a_row_in_the_table() -> None:
    assert {folder(module) for module in imports()} <= set(MAY_IMPORT)
    assert {name for row in MAY_IMPORT.values() for name in row} <= {
        room for module in imports() for room in rooms(module)
    }


@pytest.mark.parametrize("module", sorted(imports()))
def test_modules_know_only_whom_they_may(module: str) -> None:
    allowed = MAY_IMPORT[module if module in MAY_IMPORT else folder(module)]
    allowed = allowed | FOR_ALL | {folder(module)}
    assert {other for other in inside(module) if not rooms(other) & allowed} == set()


@pytest.mark.parametrize("reserved", sorted(RESERVED))
def test_outside_modules_stay_where_they_belong(reserved: str) -> None:
    users = {module for module in imports() if reserved in outside(module)}
    assert {user for user in users if not rooms(user) & RESERVED[reserved]} == set()


def test_no_circle_of_files() -> None:
    left = {module: inside(module) for module in imports()}
    while True:
        free = {module for module, others in left.items() if not others & set(left)}
        if not free:
            break
        left = {module: others for module, others in left.items() if module not in free}
    assert sorted(left) == []


@pytest.mark.parametrize("module", sorted(m for m in imports() if folder(m) == "planning"))
def test_planning_computes_with_integers_only(module: str) -> None:
    assert outside(module) & NOT_FOR_PLANNING == set()


@pytest.mark.parametrize("module", sorted(set(imports()) - {""}))
def test_package_files_are_empty(module: str) -> None:
    path = ROOT / module.replace(".", "/") / "__init__.py"
    assert not path.exists() or path.read_text() == ""


def private_names(module: str) -> set[str]:
    """Attributes with a leading underscore that a module uses, and private modules it imports."""
    tree = ast.parse(source(module).read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    modules = {part for name in imports()[module] for part in name.split(".")}
    return {name for name in attributes | modules if re.fullmatch("_[a-z][a-z_]*", name)}


def test_one_module_touches_what_is_private_in_the_binding() -> None:
    theirs = private_names("binding.private")
    assert {"_ctx", "_batch", "_internals"} <= theirs
    for module in imports():
        if (
            folder(module) in {"binding", "chat", "llama", "bench", "cli"}
            and module != "binding.private"
        ):
            assert private_names(module) & theirs == set(), module


def test_library_code_does_not_print() -> None:
    for path in ROOT.rglob("*.py"):
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            printing = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not printing, f"{path.name}:{getattr(node, 'lineno', 0)}"


@pytest.mark.parametrize(
    "code",
    [
        "import flexinfer; flexinfer.__version__",
        "import flexinfer.gguf.catalogue, flexinfer.sizes, flexinfer.errors",
        "import flexinfer.planning.planner, flexinfer.planning.strategies",
    ],
)
def test_what_needs_no_library_loads_none(code: str) -> None:
    assert loaded_by(code) & {"llama_cpp", "numpy", "ctypes", "gguf", "rich"} == set()


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Lama'"):
        _ = flexinfer.Lama
