"""Models on the hub: headers by range, downloads into the hub's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fake_hub import FakeHub
from support.hub_client import REPO, Run, blobs, use_hub
from support.tiny_model import TinyModel

from flexinfer.errors import RequestError
from flexinfer.hub import download, hub
from flexinfer.synth.write import write_model


def test_a_download_needs_room(tmp_path: Path) -> None:
    hub.require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(RequestError, match="HF_HOME"):
        hub.require_space(tmp_path / "not" / "there", 1 << 60)


def test_a_plan_needs_the_header_only(run: Run, fake_hub: FakeHub, tmp_path: Path) -> None:
    done = run("plan", f"hf:{REPO}", "--memory", "100MiB")
    assert done.returncode == 0, done.stderr
    assert "attn_q" in done.stdout
    size = (fake_hub.folder / "tiny-Q8_0.gguf").stat().st_size
    assert 0 < fake_hub.log.sent < size // 4
    assert all(r is not None for m, p, r in fake_hub.log.requests if m == "GET" and "resolve" in p)
    assert blobs(tmp_path) == []


def test_a_split_model_is_planned_from_all_headers(
    run: Run, fake_hub: FakeHub, tmp_path: Path
) -> None:
    paths = write_model("tiny-llama", fake_hub.folder / "other-Q4_0.gguf", "q4_0", split=2)
    assert len(paths) == 2
    done = run("plan", f"hf:{REPO}:Q4_0", "--memory", "100MiB")
    assert done.returncode == 0, done.stderr
    assert "in 2 files" in done.stdout


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_architecture_that_llama_cpp_lacks_is_found_in_the_header(
    run: Run, fake_hub: FakeHub, tmp_path: Path, command: str
) -> None:
    path = fake_hub.folder / "tiny-Q8_0.gguf"
    value = (5).to_bytes(8, "little")
    content = path.read_bytes()
    path.write_bytes(content.replace(value + b"llama", value + b"lhama", 1))
    prompt = ["-p", "x"] if command == "run" else []
    done = run(command, f"hf:{REPO}", "--memory", "1GiB", *prompt)
    assert done.returncode == 1
    assert "lhama" in done.stderr
    assert done.stderr.count("\n") == 1
    assert 0 < fake_hub.log.sent < len(content) // 4
    assert blobs(tmp_path) == []


def test_a_broken_download_goes_on_in_the_next_process(
    fake_hub: FakeHub, tmp_path: Path, tiny_model: TinyModel
) -> None:
    model = fake_hub.folder / "tiny-Q8_0.gguf"
    # The client hands on pieces of 10 MiB; of the second one something must be missing.
    shutil.copy(tiny_model("tiny-wide", "f16"), model)
    size = model.stat().st_size
    fake_hub.stall_after = 25 << 20
    code = "import sys; from flexinfer.hub import hub; print(hub.download(hub.locate(sys.argv[1])))"
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
    assert len(blobs(tmp_path)) == 1


def test_a_file_too_large_for_one_request_comes_in_pieces(
    fake_hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    model = fake_hub.folder / "tiny-Q8_0.gguf"
    size = model.stat().st_size
    piece = 4 << 20
    fake_hub.most = piece
    use_hub(monkeypatch, fake_hub.endpoint, tmp_path / "home")
    # What the hub does with 50 GB, here with 4 MiB.
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", piece)
    monkeypatch.setattr(download, "_PIECE", piece)
    path = hub.download(hub.locate(f"hf:{REPO}"))
    assert Path(path).read_bytes() == model.read_bytes()
    ranges = [r for m, p, r in fake_hub.log.requests if m == "GET" and "resolve" in p]
    assert len(ranges) == -(-size // piece) > 2
    assert fake_hub.log.sent == size
    assert "100%" in capfd.readouterr().err


def test_what_does_not_fit_is_not_downloaded(run: Run, fake_hub: FakeHub, tmp_path: Path) -> None:
    done = run("run", f"hf:{REPO}", "-p", "one", "--memory", "20MiB")
    assert done.returncode == 1
    assert "smallest that would do" in done.stderr
    assert "Traceback" not in done.stderr
    assert blobs(tmp_path) == []
