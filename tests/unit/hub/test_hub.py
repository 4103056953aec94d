"""Models on the hub: which file is meant, headers by range, downloads into the hub's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fake_hub import FakeHub
from support.tiny_model import TinyModel

from flexinfer.errors import ModelNotFoundError, RequestError
from flexinfer.hub import hub
from flexinfer.hub.reference import Reference, choose

REPO = "someone/tiny"
Run = Callable[..., "subprocess.CompletedProcess[str]"]
FILES = [
    "README.md",
    "tiny-Q8_0.gguf",
    "tiny-Q4_K_M.gguf",
    "tiny-Q4_K_S.gguf",
    "mmproj-tiny-f16.gguf",
    "big/tiny-BF16-00001-of-00002.gguf",
    "big/tiny-BF16-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("want", "file"),
    [
        (None, "tiny-Q4_K_M.gguf"),
        ("q8_0", "tiny-Q8_0.gguf"),
        ("Q4_K_S", "tiny-Q4_K_S.gguf"),
        ("tiny-Q4_K_S.gguf", "tiny-Q4_K_S.gguf"),
        ("bf16", "big/tiny-BF16-00001-of-00002.gguf"),
        ("big/tiny-BF16-00001-of-00002.gguf", "big/tiny-BF16-00001-of-00002.gguf"),
    ],
)
def test_a_reference_means_one_file(want: str | None, file: str) -> None:
    assert choose(FILES, want) == file


def test_what_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Q5_K_M.*tiny-Q8_0\.gguf"):
        choose(FILES, "Q5_K_M")
    with pytest.raises(ModelNotFoundError, match="no GGUF file at all"):
        choose(["README.md", "mmproj-f16.gguf"], None)


def test_without_a_usual_quantisation_any_model_will_do() -> None:
    assert choose(["tiny-F16.gguf"], None) == "tiny-F16.gguf"


def test_references_are_read() -> None:
    assert Reference.parse("hf:a/b") == Reference("a/b", None)
    assert Reference.parse("hf:a/b:Q4_0") == Reference("a/b", "Q4_0")
    assert Reference.parse("hf:a/b:sub/c.gguf") == Reference("a/b", "sub/c.gguf")


@pytest.mark.parametrize("text", ["hf:", "hf:a", "hf:a/b/c", "hf:a/b:", "hf:/b"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="hf:user/repo"):
        Reference.parse(text)


def test_a_download_needs_room(tmp_path: Path) -> None:
    hub.require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(RequestError, match="HF_HOME"):
        hub.require_space(tmp_path / "not" / "there", 1 << 60)


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


def _blobs(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "home").rglob("blobs/*") if p.is_file()]


def test_a_plan_needs_the_header_only(run: Run, fake_hub: FakeHub, tmp_path: Path) -> None:
    done = run("plan", f"hf:{REPO}", "--memory", "100MiB")
    assert done.returncode == 0, done.stderr
    assert "attn_q" in done.stdout
    size = (fake_hub.folder / "tiny-Q8_0.gguf").stat().st_size
    assert 0 < fake_hub.log.sent < size // 4
    assert all(r is not None for m, p, r in fake_hub.log.requests if m == "GET" and "resolve" in p)
    assert _blobs(tmp_path) == []


def test_a_split_model_is_planned_from_all_headers(
    run: Run, fake_hub: FakeHub, tmp_path: Path
) -> None:
    from flexinfer.synth import write_model

    paths = write_model("tiny-llama", fake_hub.folder / "other-Q4_0.gguf", "q4_0", split=2)
    assert len(paths) == 2
    done = run("plan", f"hf:{REPO}:Q4_0", "--memory", "100MiB")
    assert done.returncode == 0, done.stderr
    assert "in 2 files" in done.stdout


@pytest.mark.native
def test_run_downloads_once_and_then_works_offline(
    run: Run, fake_hub: FakeHub, tmp_path: Path
) -> None:
    arguments = ("run", f"hf:{REPO}:q8_0", "-p", "one", "-n", "2", "--weight-memory", "40M", "-q")
    first = run(*arguments, "--seed", "1")
    assert first.returncode == 0, first.stderr
    assert len(_blobs(tmp_path)) == 1
    sent = fake_hub.log.sent
    again = run(*arguments, "--seed", "1", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert fake_hub.log.sent == sent


def test_a_broken_download_goes_on_in_the_next_process(
    fake_hub: FakeHub, tmp_path: Path, tiny_model: TinyModel
) -> None:
    model = fake_hub.folder / "tiny-Q8_0.gguf"
    # The client hands on pieces of 10 MiB; of the second one something must be missing.
    shutil.copy(tiny_model("tiny-wide", "f16"), model)
    size = model.stat().st_size
    fake_hub.stall_after = 25 << 20
    code = "import sys; from flexinfer.hub import hub; print(hub.download(sys.argv[1]))"
    command = [sys.executable, "-c", code, f"hf:{REPO}"]
    environment = {
        **os.environ,
        "HF_ENDPOINT": fake_hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as first:
        assert fake_hub.stalled.wait(60)
        parts = tmp_path / "home"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if any(p.stat().st_size >= 20 << 20 for p in parts.rglob("*part")):
                break
            time.sleep(0.05)
        first.kill()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).read_bytes() == model.read_bytes()
    ranges = [r for m, p, r in fake_hub.log.requests if m == "GET" and "resolve" in p]
    assert ranges == [f"bytes=0-{size - 1}", f"bytes={20 << 20}-{size - 1}"]
    assert fake_hub.log.sent == (25 << 20) + size - (20 << 20)
    assert len(_blobs(tmp_path)) == 1


def test_a_file_too_large_for_one_request_comes_in_pieces(
    fake_hub: FakeHub, tmp_path: Path, tiny_model: TinyModel
) -> None:
    model = fake_hub.folder / "tiny-Q8_0.gguf"
    size = model.stat().st_size
    piece = 4 << 20
    fake_hub.most = piece
    # What the hub does with 50 GB, here with 4 MiB.
    code = f"""
from huggingface_hub import constants
from flexinfer.hub import hub
from flexinfer.hub import download
constants.MAX_HTTP_DOWNLOAD_SIZE = download._PIECE = {piece}
print(hub.download("hf:{REPO}"))
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": fake_hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == model.read_bytes()
    ranges = [r for m, p, r in fake_hub.log.requests if m == "GET" and "resolve" in p]
    assert len(ranges) == -(-size // piece) > 2
    assert fake_hub.log.sent == size
    assert "100%" in done.stderr


def test_what_does_not_fit_is_not_downloaded(run: Run, fake_hub: FakeHub, tmp_path: Path) -> None:
    done = run("run", f"hf:{REPO}", "-p", "one", "--memory", "20MiB")
    assert done.returncode == 1
    assert "smallest that would do" in done.stderr
    assert "Traceback" not in done.stderr
    assert _blobs(tmp_path) == []


def test_a_token_is_used(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.token = "hf_secret"
    assert run("plan", f"hf:{REPO}", HF_TOKEN="hf_secret").returncode == 0
    refused = run("plan", f"hf:{REPO}")
    assert refused.returncode == 1
    assert "hf auth login" in refused.stderr
    assert "hf_secret" not in refused.stderr


def test_a_gated_repository_says_what_to_do(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.token, fake_hub.gated = "hf_secret", True
    refused = run("plan", f"hf:{REPO}")
    assert refused.returncode == 1
    assert "is gated" in refused.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("hf:no/body", "has no no/body"),
        (f"hf:{REPO}:Q2_K", "nothing in the repository matches Q2_K: tiny-Q8_0.gguf"),
        ("hf:nonsense", "hf:user/repo"),
    ],
)
def test_what_is_not_there_is_one_sentence(run: Run, model: str, message: str) -> None:
    done = run("plan", model)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_without_a_cache_says_so(run: Run) -> None:
    done = run("plan", f"hf:{REPO}", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "offline mode" in done.stderr


@pytest.mark.slow  # the client tries for half a minute
def test_a_hub_out_of_reach_says_so(run: Run) -> None:
    done = run("plan", f"hf:{REPO}", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr
