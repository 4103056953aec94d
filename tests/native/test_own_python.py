"""Processes of ours start alike in any folder and with any settings of Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flexinfer
from flexinfer.own_python import own_module, own_python

MODEL = str(Path(flexinfer.__file__).parent / "data" / "shakespeare.gguf")
_COMMON = ("json", "types", "runpy", "select", "random", "numpy", "llama_cpp", "flexinfer")
_SETTINGS = {
    "PYTHONIOENCODING": "utf-16",
    "PYTHONINSPECT": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONSAFEPATH": "1",
}


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with files that have names of modules, and settings that change output."""
    for name in _COMMON:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the working folder')\n")
    monkeypatch.chdir(tmp_path)
    for name, value in _SETTINGS.items():
        monkeypatch.setenv(name, value)


def ran(command: list[str]) -> bytes:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("surroundings")
def test_it_has_this_process_path_and_arguments() -> None:
    code = "import flexinfer.sizes; print(json.dumps([sys.path, sys.argv[1:]]))"
    path, arguments = json.loads(ran(own_python(code, "a b", "é")))
    assert path == [os.path.abspath(entry) for entry in sys.path]
    assert arguments == ["a b", "é"]


@pytest.mark.usefixtures("surroundings")
def test_a_module_is_run_as_its_command() -> None:
    assert ran(own_module("flexinfer", "--version")).decode().startswith("flexinfer, version")


_USERS = {
    "a chat template": (
        "from flexinfer.binding.chat_template import render_elsewhere\n"
        "found = render_elsewhere('{{ a }}b', {'a': 'é'})\n"
    ),
    "a server": (
        "from flexinfer import Server\n"
        f"with Server({MODEL!r}, memory='130MiB') as server: found = server.plan()['ctx']\n"
    ),
    "plain llama.cpp": (
        "from flexinfer.bench.plain import plain_tokens\n"
        f"found = plain_tokens({MODEL!r}, [1, 2], 2, {{'n_ctx': 64}}, {{'temp': 0.0}})\n"
    ),
}


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("who", list(_USERS))
def test_whoever_starts_one_is_answered(who: str) -> None:
    """By a program that somebody started as ours start, so that it is not hit itself."""
    code = f"import os; os.environ.update({_SETTINGS!r})\n{_USERS[who]}print(json.dumps(found))"
    assert json.loads(ran(own_python(code)))
