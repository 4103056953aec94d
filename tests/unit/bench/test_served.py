"""A server as a process of its own: its document, its status, and that it is surely ended."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from flexinfer.bench import served
from flexinfer.bench.served import serving
from flexinfer.errors import EngineError

_READY = 'print(\'{"address": "http://127.0.0.1:1", "slots": 2}\', flush=True)'
_STAYS = "import signal; signal.pause()"


def script(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_it_is_there_while_entered_and_tells_what_it_ended_with() -> None:
    with serving(script(_READY, _STAYS)) as server:
        assert server.ready == {"address": "http://127.0.0.1:1", "slots": 2}
        assert server.status is None
        assert repr(server) == f"<Served http://127.0.0.1:1 pid {server.pid}>"
        assert lives(server.pid)
    assert server.status == -signal.SIGTERM
    assert repr(server) == f"<Served http://127.0.0.1:1 ended with {-signal.SIGTERM}>"
    assert not lives(server.pid)


def test_one_that_ends_by_itself_has_its_own_status() -> None:
    with serving(script(_READY, "raise SystemExit(3)")) as server:
        server._process.wait()
        assert server.status == 3
    assert server.status == 3


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_END_SECONDS", 0.2)
    ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with serving(script(ignores, _READY, "while True:", "    signal.pause()")) as server:
        pass
    assert server.status == -signal.SIGKILL
    assert not lives(server.pid)


def test_whatever_leaves_it_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), serving(script(_READY, _STAYS)) as server:
        raise KeyboardInterrupt
    assert server.status == -signal.SIGTERM


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("import sys; sys.exit('no room')",), "the server ended with 1, 0 OOM kills: no room"),
        (('print(\'{"error": {"message": "no room"}}\')',), "did not start: no room"),
    ],
)
def test_one_that_does_not_start_is_an_error(lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(EngineError, match=words), serving(script(*lines)):
        raise AssertionError
