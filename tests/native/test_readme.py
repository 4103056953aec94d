"""Every block of the README runs, with the bundled model in place of a large file."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from support.served import Served, serving

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BUNDLED = ROOT / "src/flexinfer/data/shakespeare.gguf"
# Setting up and testing are what the tests stand on; running them from here would not end.
GIVEN = {"scripts/setup", "scripts/test", ". .venv/bin/activate"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [
        line.partition("  #")[0].strip() for block in blocks("sh") for line in block.split("\n")
    ]
    return [line for line in lines if line and line not in GIVEN]


@pytest.mark.parametrize("line", commands())
def test_commands(line: str, tmp_path: Path) -> None:
    words = shlex.split(line.replace("MODEL", str(BUNDLED)))
    if words[0] == "flexinfer":
        words = [sys.executable, "-m", *words]
    elif words[0] == "python":
        words = [sys.executable, *words[1:]]
    done = subprocess.run(
        words,
        cwd=tmp_path if words[1] == "-m" else ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(code.replace("MODEL", str(BUNDLED)))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


# -- a server and whoever asks it ----------------------------------------------------------------

KEY = "open-sesame"
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(BUNDLED, "--memory", "400MiB", "--ctx", 512, "--api-key", KEY) as served:
        yield served


def test_curl(server: Served) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    (block,) = blocks("bash")
    assert ADDRESS in block
    done = subprocess.run(
        ["bash", "-c", block.replace(ADDRESS, server.ready["address"])],
        env=os.environ | {"FLEXINFER_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert json.loads(done.stdout)["usage"]["completion_tokens"] > 0, done.stdout


def test_settings_of_an_editor(server: Served) -> None:
    (block,) = blocks("yaml")
    lines = (line.strip(" -").partition(": ") for line in block.splitlines())
    model = {name: value for name, _, value in lines}
    assert model["provider"] == "openai"
    address = model["apiBase"].replace(ADDRESS, server.ready["address"])
    with OpenAI(base_url=address, api_key=KEY) as client:
        answer = client.chat.completions.create(
            model=model["model"],
            messages=[{"role": "user", "content": "Who is Romeo?"}],
            max_tokens=8,
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_the_service_of_systemd(tmp_path: Path) -> None:
    (block,) = blocks("ini")
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(block)
    command = unit["Service"]["ExecStart"]
    program = command.split()[0]
    words = command.replace("/srv/model.gguf", str(BUNDLED)).split()[1:]
    with serving(*words[1:]) as served:
        assert served.ready["slots"] == 4
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze to look through the unit")
    path = tmp_path / "flexinfer.service"
    path.write_text(block.replace(program, shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr
    assert path.name not in done.stderr


def test_the_container(tmp_path: Path) -> None:
    (block,) = blocks("dockerfile")
    lines = dict(line.split(" ", 1) for line in block.splitlines())
    words = [*json.loads(lines["ENTRYPOINT"]), *json.loads(lines["CMD"])]
    assert words[:2] == ["flexinfer", "serve"]
    given = [str(BUNDLED) if word.endswith(".gguf") else word for word in words[2:]]
    with serving(*given) as served:
        assert served.ready["slots"] == 4
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("there is no docker that runs, to look through the container's file")
    path = tmp_path / "Dockerfile"
    path.write_text(block)
    done = subprocess.run(
        [docker, "build", "--check", "-f", str(path), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "failed to resolve" in done.stderr or "pull" in done.stderr:
        pytest.skip("the image that the container stands on cannot be had here")
    assert not done.returncode, done.stderr


# -- the rest ------------------------------------------------------------------------------------


def test_the_two_commands_are_there() -> None:
    for script in ("scripts/setup", "scripts/test", ".ci/run"):
        assert os.access(ROOT / script, os.X_OK), script
    assert {"scripts/setup", "scripts/test", "flexinfer demo"} <= set(
        "\n".join(blocks("sh")).split("\n")
    )


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
