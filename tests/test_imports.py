"""Which module may know which: the block diagram of the package, as a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import flexinfer

ROOT = Path(flexinfer.__file__).parent

# Each module by its first name (``cli.run`` is ``cli``) in one layer.
LAYERS: dict[str, set[str]] = {
    "base": {"errors", "sizes", "gguf_types", "layout"},
    "files": {"broken", "gguf", "gguf_header", "gguf_source"},
    "policy": {
        *(
            "adaptive",
            "balance",
            "budget",
            "choice",
            "experts_cache",
            "experts_guesses",
            "experts_plan",
        ),
        *("forecast", "observed", "plan", "planner", "policies", "routing", "strategies"),
    },
    "storage": {
        *(
            "directio",
            "experts",
            "experts_group",
            "experts_window",
            "locked",
            "memlock",
            "memory_reader",
            "pages",
        ),
        *("read_threads", "reader", "residency", "ring", "rows", "stream", "waiting"),
    },
    "system": {
        *("auto", "cgroup", "checkup", "describe", "estimate", "groups"),
        *("hub", "hub_choice", "hub_download", "machine", "probe", "rates", "remembered"),
    },
    "native": {
        *("_ggml", "aborts", "address_space", "buffers", "callbacks", "compute_rate", "device"),
        *(
            "experts_nodes",
            "experts_router",
            "ggml_check",
            "ggml_library",
            "graph",
            "operands",
            "scopes",
        ),
    },
    "engine": {"accounts", "engine", "guard", "opening", "trials"},
    "show": {"show"},
    "surface": {
        *("", "__main__", "batches", "bench", "cli", "conversation", "generation"),
        *("llama", "plain", "projector", "session", "state", "vocabulary"),
    },
    "synth": {"synth"},
}

# Storage and native are the two columns that never learn each other's names; the engine joins them.
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "files": {"base"},
    "policy": {"base"},
    "storage": {"base", "files", "policy"},
    "system": {"base", "files", "policy", "storage"},
    "native": {"base", "policy"},
    "engine": {"base", "files", "policy", "storage", "system", "native"},
    "show": {"base", "policy"},
    "surface": {
        *("base", "files", "policy", "storage", "system"),
        *("native", "engine", "show", "synth"),
    },
    "synth": {"base"},
}

# Module to what it imports in spite of that.
EXCEPTIONS: dict[str, set[str]] = {
    "compute_rate": {"pages"},  # the probe multiplies in recycled pages, as the engine does
    "rates": {"compute_rate"},  # asks it when a model is large enough to be worth it
}

# Outside modules that not everybody may import, with those who may.
RESERVED: dict[str, set[str]] = {
    "ctypes": {
        *("_ggml", "address_space", "buffers", "callbacks", "device"),
        *("experts_nodes", "experts_router", "ggml_check", "ggml_library", "graph", "memlock"),
    },
    "llama_cpp": {"opening"} | LAYERS["surface"],
    "click": {"cli"},
    "rich": {"cli", "show"},
    "gguf": {"synth"},
}

NOT_FOR_POLICY = {"ctypes", "mmap", "numpy", "os", "pathlib", "socket", "subprocess"}


def first_name(module: str) -> str:
    return module.removeprefix("flexinfer").lstrip(".").split(".")[0]


@lru_cache(maxsize=1)
def imports() -> dict[str, set[str]]:
    """Full names of everything that each module of the package imports, at any depth."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found.setdefault(name, set()).update(imported(ast.parse(path.read_text())))
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who is meant"
            if node.module == "flexinfer":
                yield from (f"flexinfer.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def inside(module: str) -> set[str]:
    """First names of the package's own modules that a module imports, but for itself."""
    ours = {name for name in imports()[module] if name.split(".")[0] == "flexinfer"}
    known = {first_name(name) for name in imports()}
    return {n if n in known else "" for n in map(first_name, ours)} - {first_name(module)}


def outside(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports()[module]} - {"flexinfer"}


def layer(name: str) -> str:
    return next(layer for layer, names in LAYERS.items() if name in names)


def test_each_module_has_one_place_in_the_table() -> None:
    listed = [name for names in LAYERS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert {first_name(module) for module in imports()} == set(listed)
    assert set(MAY_IMPORT) == set(LAYERS)


@pytest.mark.parametrize("module", sorted(imports()))
def test_modules_know_only_whom_they_may(module: str) -> None:
    name = first_name(module)
    own = layer(name)
    allowed = {n for other in MAY_IMPORT[own] | {own} for n in LAYERS[other]}
    assert inside(module) - allowed - EXCEPTIONS.get(name, set()) - {""} == set()
    if own != "surface":
        assert "" not in inside(module), "the package itself is for its users"


def test_exceptions_are_needed() -> None:
    for name, others in EXCEPTIONS.items():
        assert others <= inside(name), name


@pytest.mark.parametrize("reserved", RESERVED)
def test_outside_modules_stay_where_they_belong(reserved: str) -> None:
    users = {first_name(module) for module in imports() if reserved in outside(module)}
    assert users <= RESERVED[reserved]


@pytest.mark.parametrize("name", sorted(LAYERS["policy"]))
def test_policy_computes_with_integers_only(name: str) -> None:
    assert outside(name) & NOT_FOR_POLICY == set()


def test_library_code_does_not_print() -> None:
    for path in ROOT.rglob("*.py"):
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            printing = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not printing, f"{path.name}:{getattr(node, 'lineno', 0)}"


def loaded_by(code: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(shown.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import flexinfer; flexinfer.__version__",
        "import flexinfer.gguf, flexinfer.sizes, flexinfer.errors",
        "import flexinfer.planner, flexinfer.strategies, flexinfer.budget",
    ],
)
def test_what_needs_no_library_loads_none(code: str) -> None:
    assert loaded_by(code) & {"llama_cpp", "numpy", "ctypes", "gguf", "rich"} == set()


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Lama'"):
        _ = flexinfer.Lama


@pytest.mark.native
def test_a_plan_does_not_wait_for_the_bindings_package() -> None:
    probe = "from flexinfer.compute_rate import compute_rates; compute_rates([], 1)"
    loaded = loaded_by(f"import flexinfer.cli.plan; {probe}")
    assert loaded & {"llama_cpp", "jinja2"} == set()
    assert "ctypes" in loaded


@pytest.mark.native
def test_the_class_is_loaded_on_demand() -> None:
    assert "llama_cpp" in loaded_by("from flexinfer import Llama")
