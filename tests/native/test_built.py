"""Libraries that are compiled with the package open only beside what they were built from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.workers import free_port

import flexinfer
from flexinfer.native.built import sources
from flexinfer.native.rpc import LIBRARY as BACKEND
from flexinfer.serve.library import LIBRARY as SERVER

_SERVER = "from flexinfer.serve.library import ServerLibrary; ServerLibrary()"
_BACKEND = "from flexinfer.native.rpc import rpc; rpc()"

pytestmark = pytest.mark.skipif(
    sources() is None or not (SERVER.is_file() and BACKEND.is_file()),
    reason="the server was not built from sources that are here; run `flexinfer serve --build`",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This package with sources of its own beside it."""
    source = sources()
    assert source is not None
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "flexinfer").symlink_to(Path(flexinfer.__file__).parent)
    shutil.copytree(source, tmp_path / "server-build")
    return tmp_path


def _run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("opening", [_SERVER, _BACKEND])
@pytest.mark.parametrize("changed", ["our-hooks.h", "rpc/exports.map"])
def test_a_library_of_other_sources_is_refused(checkout: Path, opening: str, changed: str) -> None:
    assert _run(checkout, "-c", opening).returncode == 0
    with (checkout / "server-build" / changed).open("a") as file:
        file.write("\n")
    refused = _run(checkout, "-c", opening)
    assert refused.returncode == 1
    assert "UnsupportedError" in refused.stderr
    assert "`flexinfer serve --build`" in refused.stderr


@pytest.mark.parametrize("opening", [_SERVER, _BACKEND])
def test_without_sources_there_is_nothing_to_compare(checkout: Path, opening: str) -> None:
    shutil.rmtree(checkout / "server-build")
    assert _run(checkout, "-c", opening).returncode == 0


def test_a_command_says_what_to_do(checkout: Path) -> None:
    (checkout / "server-build" / "hooks.cpp").unlink()
    lending = ("worker", "--memory", "100MiB", "--port", str(free_port()))
    for command in (("serve", "any.gguf"), lending):
        refused = _run(checkout, "-m", "flexinfer", *command)
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert "was built from other sources than those in" in line
        assert line.endswith("run `flexinfer serve --build`")
