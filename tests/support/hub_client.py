"""A hub of a test's own, and the hub's client pointed at it, with a cache of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.fake_hub import FakeHub
from support.tiny_model import TinyModel

REPO = "someone/tiny"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fake_hub(tmp_path: Path, tiny_model: TinyModel) -> Iterator[FakeHub]:
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.copy(tiny_model("tiny-wide", "q8_0"), folder / "tiny-Q8_0.gguf")
    server = FakeHub(REPO, folder)
    yield server
    server.close()


@pytest.fixture
def run(tmp_path: Path, fake_hub: FakeHub) -> Run:
    """Calls the command line with the fake hub, a cache of its own and no token."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return subprocess.run(
            [sys.executable, "-m", "flexinfer", *arguments],
            env={
                **clean,
                "HF_ENDPOINT": fake_hub.endpoint,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str, home: Path) -> None:
    """Have the client, which looks at its environment once, use this hub and this cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "")
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)


def blobs(tmp_path: Path) -> list[Path]:
    """The files that the cache of this test has."""
    return [p for p in (tmp_path / "home").rglob("blobs/*") if p.is_file()]
