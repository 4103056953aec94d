"""What was measured once is remembered where there is a place for it; elsewhere nothing fails."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.tiny_model import TinyModel

from flexinfer.rates.cache_file import Remembered, cache_folder


def test_what_is_put_is_there_for_a_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Remembered(tmp_path / "cache")
    assert memory.get("a") is None
    memory.put("a", {"rate": 1.0})
    memory.put("b", {"rate": 2.0})
    found = Remembered(tmp_path / "cache").get("a")
    assert found is not None
    assert found["rate"] == 1.0
    now = found["when"]
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600.0)
    assert memory.get("b") is None
    memory.put("c", {})
    assert list(json.loads((tmp_path / "cache/rates.json").read_text())) == ["c"]


def test_cache_folder_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "flexinfer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "flexinfer"


_WITHOUT_HOME = """
import pwd, sys
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from flexinfer.cli.main import main
main()
"""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HOME": ""},
        {"HOME": "/nonexistent"},
        {"HOME": "/dev/null"},
        {"XDG_CACHE_HOME": "relative/folder"},
        {"XDG_CACHE_HOME": "/dev/null"},
        {"XDG_CACHE_HOME": "/proc/nothing/here"},
    ],
    ids=str,
)
def test_without_a_place_nothing_is_remembered_and_nothing_fails(
    variables: dict[str, str], tiny_model: TinyModel, tmp_path: Path
) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_HOME, "plan", str(tiny_model("tiny-llama")), "--json"],
        env=clean | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["budget"] > 0
    assert list(tmp_path.iterdir()) == []
    assert not Path("/nonexistent").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"nonsense",
        b'{"a": 1}',
        b'{"a": []}',
        b'{"a": {"when": "now"}}',
        b'{"a": {"when": 9e99}}',
        b'{"a": {"when": NaN}}',
        b"[" * 100_000,
        b'{"a": "' + b"x" * (2 << 20) + b'"}',
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_file_of_somebody_else_is_as_if_it_were_not_there(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rates.json").write_bytes(content)
    memory = Remembered(tmp_path)
    assert memory.get("a") is None
    memory.put("a", {"rate": 1.0})
    found = memory.get("a")
    assert found is not None
    assert found["rate"] == 1.0


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rates.json")
    found: list[object] = []
    asking = threading.Thread(
        target=lambda: found.append(Remembered(tmp_path).get("a")), daemon=True
    )
    asking.start()
    asking.join(10)
    assert found == [None]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "write_text", "replace", "unlink"])
def test_a_folder_that_takes_nothing_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    memory = Remembered(tmp_path)
    memory.put("a", {"rate": 1.0})

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, refuse)
        memory.put("b", {"rate": 2.0})
    assert [path.name for path in tmp_path.iterdir()] == ["rates.json"]
    assert (memory.get("b") is None) == (call != "unlink")
    assert memory.get("a") is not None


def test_a_full_drive_leaves_no_half_file(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from flexinfer.rates.cache_file import Remembered
memory = Remembered(Path(sys.argv[1]))
memory.put("a", {"rate": 1.0})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (80, 80))
memory.put("b", {"text": "x" * 1000})
print(sorted(p.name for p in Path(sys.argv[1]).iterdir()), memory.get("a") is not None)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['rates.json'] True\n"


def test_nobodys_home_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    Remembered().put("a", {"rate": 1.0})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "nobody").mkdir()
    Remembered().put("a", {"rate": 1.0})
    assert (tmp_path / "nobody/.cache/flexinfer/rates.json").is_file()
