"""What goes wrong with the hub: each has a sentence of its own."""

from __future__ import annotations

import builtins
import errno
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.fake_hub import FakeHub
from support.hub_client import REPO, Run, use_hub

from flexinfer.errors import ModelNotFoundError, ReadError, RequestError
from flexinfer.hub import hub

NOBODY = "http://127.0.0.1:9"


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "http://[::1"),
        ("HF_ENDPOINT", "http://127.0.0.1:99999"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
    ],
)
def test_a_variable_that_the_client_cannot_read(run: Run, name: str, value: str) -> None:
    done = run("plan", f"hf:{REPO}", **{name: value})
    assert done.returncode == 1
    assert "the hub's client does not start: " in done.stderr
    assert name in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HF_ENDPOINT", "http://me:secret@127.0.0.1:9", "//127.0.0.1:9 refuses connections"),
        ("HF_TOKEN", "\u00ff", "check HF_TOKEN"),
        ("HF_ENDPOINT", "ftp://hub", "HF_ENDPOINT, HTTPS_PROXY and SSL_CERT_FILE"),
    ],
)
def test_settings_that_lead_nowhere(run: Run, name: str, value: str, said: str) -> None:
    done = run("plan", f"hf:{REPO}", **{name: value})
    assert done.returncode == 1
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_offline_without_a_cache_says_so(run: Run) -> None:
    done = run("plan", f"hf:{REPO}", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "offline mode" in done.stderr


def test_a_hub_out_of_reach_says_so(run: Run) -> None:
    done = run("plan", f"hf:{REPO}", HF_ENDPOINT=NOBODY)
    assert done.returncode == 1
    assert f"{NOBODY} refuses connections" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, ModelNotFoundError, "hf auth login"),
        (403, ModelNotFoundError, r"does not let you read someone/tiny \(403\)"),
        (404, ModelNotFoundError, r"has no someone/tiny"),
        (429, ReadError, r"\(429\); wait some minutes"),
        (500, ReadError, r"error of its own \(500\)"),
    ],
)
def test_answers_are_told_apart(
    fake_hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[Exception],
    words: str,
) -> None:
    use_hub(monkeypatch, fake_hub.endpoint, tmp_path / "home")
    fake_hub.fails = status
    with pytest.raises(kind, match=words) as error:
        hub.locate(f"hf:{REPO}")
    assert "\n" not in str(error.value)
    assert len(fake_hub.questions) == 1


@pytest.mark.parametrize(
    ("status", "asked", "words"),
    [(500, 3, r"\(500\)"), (503, 3, r"\(503\)"), (429, 1, "wait some minutes"), (403, 1, "403")],
)
def test_a_hub_that_lists_what_it_does_not_give_is_not_asked_for_long(
    fake_hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    asked: int,
    words: str,
) -> None:
    use_hub(monkeypatch, fake_hub.endpoint, tmp_path / "home")
    choice = hub.locate(f"hf:{REPO}")
    fake_hub.files_fail = status
    with pytest.raises((ReadError, ModelNotFoundError), match=words):
        hub.read_remote(choice)
    gets = [path for kind, path, _ in fake_hub.log.requests if kind == "GET"]
    assert len([path for path in gets if "/resolve/" in path]) == asked


def test_networks_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, "http://no.such.host.invalid", tmp_path)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ReadError, match=r"no\.such\.host\.invalid has no address"):
        hub.locate(f"hf:{REPO}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(hub, "_PATIENCE_SECONDS", 0.2)
        use_hub(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        with pytest.raises(ReadError, match="does not answer in time"):
            hub.locate(f"hf:{REPO}")


def test_what_is_no_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>log in to this network</html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        use_hub(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}", tmp_path)
        with pytest.raises(ReadError, match="is no hub; check HF_ENDPOINT"):
            hub.locate(f"hf:{REPO}")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the drive is full; make room"),
        (errno.EDQUOT, "the drive is full; make room"),
        (errno.EACCES, "permission denied; make it writable"),
        (errno.EROFS, "read-only file system; make it writable"),
    ],
)
def test_the_own_drive_is_not_the_hub(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    use_hub(monkeypatch, fake_hub.endpoint, tmp_path / "home")
    choice = hub.locate(f"hf:{REPO}")
    real = builtins.open

    def refusing(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "a" in mode and str(file).endswith("part"):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, mode, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refusing)
    with pytest.raises(RequestError, match=f"{words}, or set HF_HOME") as error:
        hub.download(choice)
    assert str(tmp_path / "home") in str(error.value)


def test_a_cache_that_is_no_folder_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("run", f"hf:{REPO}", "-p", "x", "-n", "1", HF_HOME=str(tmp_path / "file/home"))
    assert done.returncode == 1
    assert "not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_home_folder_a_plan_is_made_and_a_download_refused(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    code = """
import pwd
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from flexinfer.cli.main import main
main()
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "HOME"))}
    environment |= {"HF_ENDPOINT": fake_hub.endpoint, "HF_HUB_DISABLE_XET": "1"}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    planned = call("plan", f"hf:{REPO}")
    assert planned.returncode == 0, planned.stderr
    refused = call("run", f"hf:{REPO}", "-p", "x")
    assert refused.returncode == 1
    assert "set HF_HOME" in refused.stderr
    assert list(tmp_path.iterdir()) == [fake_hub.folder]
