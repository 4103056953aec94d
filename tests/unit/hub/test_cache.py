"""Models that the hub's cache has, with the hub there, gone and failing; revisions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.fake_hub import FakeHub
from support.hub_client import REPO, use_hub
from support.tiny_model import TinyModel

from flexinfer.errors import ModelNotFoundError, ReadError
from flexinfer.hub import hub
from flexinfer.synth.write import write_model


@pytest.fixture
def downloaded(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub after its model was downloaded, and after what was asked of it was forgotten."""
    use_hub(monkeypatch, fake_hub.endpoint, tmp_path / "home")
    hub.download(hub.locate(f"hf:{REPO}"))
    fake_hub.log.requests.clear()
    return fake_hub


@pytest.mark.parametrize("want", ["Q8_0", "tiny-Q8_0.gguf"])
def test_what_the_cache_has_by_name_is_not_asked_for(downloaded: FakeHub, want: str) -> None:
    choice = hub.locate(f"hf:{REPO}:{want}")
    assert hub.read_remote(choice).architecture == "llama"
    assert hub.download(choice).is_file()
    assert downloaded.questions == []


def test_a_hub_that_has_a_better_one_is_asked(downloaded: FakeHub, tiny_model: TinyModel) -> None:
    """Not asked for by name, and not what is usual: one short question, no more."""
    shutil.copy(tiny_model("tiny-llama", "q4_0"), downloaded.folder / "tiny-Q4_K_M.gguf")
    assert hub.locate(f"hf:{REPO}").files == ("tiny-Q4_K_M.gguf",)
    assert len(downloaded.questions) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_hub_that_fails_is_asked_once_and_the_cache_taken(
    downloaded: FakeHub, status: int
) -> None:
    downloaded.fails = status
    assert hub.locate(f"hf:{REPO}").files == ("tiny-Q8_0.gguf",)
    assert len(downloaded.questions) == 1


def test_a_hub_that_is_down_does_not_hide_what_the_cache_lacks(downloaded: FakeHub) -> None:
    downloaded.fails = 503
    with pytest.raises(ReadError, match=r"has an error of its own \(503\)"):
        hub.locate(f"hf:{REPO}:Q4_0")


def test_half_a_model_in_the_cache_is_none(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, fake_hub.endpoint, tmp_path / "home")
    write_model("tiny-llama", fake_hub.folder / "other-Q4_0.gguf", "q4_0", split=2)
    path = hub.download(hub.locate(f"hf:{REPO}:Q4_0"))
    path.with_name("other-Q4_0-00002-of-00002.gguf").unlink()
    fake_hub.log.requests.clear()
    hub.locate(f"hf:{REPO}:Q4_0")
    assert fake_hub.questions


def test_a_revision_is_another_model(
    fake_hub: FakeHub, tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, fake_hub.endpoint, tmp_path / "home")
    branch = tmp_path / "branch"
    branch.mkdir()
    shutil.copy(tiny_model("tiny-llama", "q4_0"), branch / "tiny-Q4_0.gguf")
    fake_hub.revisions["refs/pr/1"] = branch
    choice = hub.locate(f"hf:{REPO}@refs/pr/1:Q4_0")
    assert choice.files == ("tiny-Q4_0.gguf",)
    assert hub.read_remote(choice).paths == (f"hf:{REPO}@refs/pr/1:tiny-Q4_0.gguf",)
    path = hub.download(choice)
    assert path.read_bytes() == (branch / "tiny-Q4_0.gguf").read_bytes()
    fake_hub.log.requests.clear()
    assert hub.download(hub.locate(f"hf:{REPO}@refs/pr/1:Q4_0")) == path
    assert fake_hub.questions == []
    with pytest.raises(ModelNotFoundError, match="nothing in the repository matches Q4_0"):
        hub.locate(f"hf:{REPO}:Q4_0")
    with pytest.raises(ModelNotFoundError, match="no such revision"):
        hub.locate(f"hf:{REPO}@v9")
