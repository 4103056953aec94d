"""Signals and errors between messages, in the middle of an answer, as process 1: what is kept."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from support.command import FLEXINFER
from support.fake_hub import FakeHub
from support.hub_client import REPO
from support.tiny_model import TinyModel

_LONGEST_SECONDS = 120.0
_ENDING = [signal.SIGTERM, signal.SIGHUP]
Chat = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return tmp_path / "session.json"


@pytest.fixture
def chat(tiny_model: TinyModel, session: Path) -> Iterator[Chat]:
    """Starts `chat` with long answers; `before` are the words of a program that starts it."""
    started: list[subprocess.Popen[bytes]] = []
    model = str(tiny_model("tiny-wide", "f16"))

    def start(*words: str, before: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[bytes]:
        command = [*before, *FLEXINFER, "chat", model, "--weight-memory", "12M", "--ctx", "4096"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [*command, "--temp", "0", "--session", str(session), *words], **{**pipes, **options}
        )
        started.append(process)
        # What says nothing any more fails its test instead of holding it up.
        guard = threading.Timer(_LONGEST_SECONDS, process.kill)
        guard.daemon = True
        guard.start()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[bytes], text: str = "one") -> None:
    """Wait until the answer has begun."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(text.encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.read(1)


def _type_again(stdin: IO[bytes], heard: threading.Event) -> None:
    """A line now and then: one may be dropped by a Ctrl-C that comes after it."""
    while not heard.wait(0.1):
        with contextlib.suppress(OSError):
            stdin.write(b"/nothing\n")
            stdin.flush()


def _answered(process: subprocess.Popen[bytes]) -> None:
    """Wait until an answer is over."""
    assert process.stderr is not None
    while b"tokens computed" not in process.stderr.readline():
        assert process.poll() is None


def _kept(session: Path) -> list[str]:
    return [message["role"] for message in json.loads(session.read_text())["messages"]]


@pytest.mark.parametrize("number", _ENDING)
@pytest.mark.parametrize("times", [1, 2])
def test_the_end_in_the_middle_of_an_answer(
    chat: Chat, session: Path, number: signal.Signals, times: int
) -> None:
    process = chat()
    _ask(process)
    for _ in range(times):
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert b"Traceback" not in said
    assert _kept(session) == ["user", "assistant"]
    assert Path(f"{session}.kv").stat().st_size > 0


@pytest.mark.parametrize("number", _ENDING)
def test_the_end_between_two_messages(chat: Chat, session: Path, number: signal.Signals) -> None:
    process = chat("-n", "2")
    _ask(process)
    _answered(process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert b"Traceback" not in said
    assert _kept(session) == ["user", "assistant"]


def test_ctrl_c_twice_stops_an_answer_and_not_the_program(chat: Chat, session: Path) -> None:
    process = chat()
    _ask(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while b"[stopped]" not in process.stderr.readline():
        assert process.poll() is None
    # At the prompt it drops what was typed.
    process.send_signal(signal.SIGINT)
    assert process.stdin is not None
    heard = threading.Event()
    typing = threading.Thread(target=_type_again, args=(process.stdin, heard), daemon=True)
    typing.start()
    while b"no command /nothing" not in process.stderr.readline():
        assert process.poll() is None
    heard.set()
    typing.join()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert b"Traceback" not in said
    assert _kept(session) == ["user", "assistant"]


def test_what_is_killed_has_its_messages(chat: Chat, session: Path) -> None:
    process = chat("-n", "2")
    _ask(process)
    _answered(process)
    process.kill()
    process.communicate()
    assert _kept(session) == ["user", "assistant"]
    again = chat("-n", "2")
    _, said = again.communicate(b"two\n", timeout=60)
    assert b"resumed 2 messages" in said
    assert _kept(session) == ["user", "assistant"] * 2


def test_a_terminal_that_is_closed(chat: Chat, session: Path) -> None:
    ours, theirs = pty.openpty()
    process = chat(
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_lead
    )
    os.close(theirs)
    seen = b""
    while b"Ctrl-D leaves" not in seen:
        seen += os.read(ours, 1024)
    os.write(ours, b"one\n")
    while len(seen.partition(b"one\r\n")[2]) < 20:
        seen += os.read(ours, 1024)
    os.close(ours)
    assert process.wait(timeout=60) in (1, 129)
    assert _kept(session) == ["user", "assistant"]


def _lead() -> None:
    """Have standard input as the terminal of this process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("place", ["none/s.json", "folder", "null", "long", "loop", "pipe"])
def test_a_session_that_could_not_be_written_is_refused_at_once(
    tiny_model: TinyModel, tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    name = "x" * 300 if place == "long" else place
    done = subprocess.run(
        [*FLEXINFER, "chat", "hf:nobody/nothing", "--session", str(tmp_path / name)],
        input=b"one\n",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (1, 2)
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    # Before anything is asked of the hub.
    assert str(Path(name).name).encode()[:100] in done.stderr
    assert b"nobody" not in done.stderr


# -- errors ----------------------------------------------------------------------------------------

_FAILING = """
import os, sys
import flexinfer.reading.open_file as open_file
from flexinfer.cli.main import main
preadv, left = os.preadv, [-1]
def failing(*arguments):
    if os.path.exists(sys.argv[0]):
        raise OSError(5, "Input/output error")
    return preadv(*arguments)
os.preadv = failing
flag = sys.argv[1]
sys.argv = [flag, *sys.argv[2:]]
main()
"""


def test_a_drive_that_fails_ends_no_conversation(
    tiny_model: TinyModel, session: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "failing"
    model = str(tiny_model("tiny-wide", "f16"))
    words = ["chat", model, "--weight-memory", "12M", "-n", "2", "--temp", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", _FAILING, str(flag), *words, "--session", str(session)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        _ask(process)
        _answered(process)
        flag.touch()
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"two\n")
        process.stdin.flush()
        told = process.stderr.readline()
        flag.unlink()
        _ask(process, "three")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert b"check the drive" in told
    assert b"Traceback" not in said
    sent = [m["content"] for m in json.loads(session.read_text())["messages"]]
    assert sent[::2] == ["one", "three"]


# -- process 1 -------------------------------------------------------------------------------------

_UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
_SCRIPT = """
import sys
import threading
from flexinfer import Llama
with Llama(sys.argv[1], weight_memory="2MiB", n_ctx=4096, verbose=False) as llm:
    print("open", flush=True)
    if sys.argv[2] == "answer":
        for token in llm.generate([1, 2, 3], temp=1.0):
            print("token", flush=True)
            if llm.n_tokens > 4000:
                llm.reset()
    import time
    time.sleep(60)
"""


@pytest.fixture
def process_one() -> tuple[str, ...]:
    done = subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no namespace of processes can be made here")
    return _UNSHARE


def _child(process: subprocess.Popen[Any]) -> int:
    """Process 1 of the namespace that `process` made, by its number outside."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text().strip():
        assert process.poll() is None
    return int(children.read_text())


def test_process_one_ends_and_keeps_its_conversation(
    chat: Chat, session: Path, process_one: tuple[str, ...]
) -> None:
    process = chat(before=process_one)
    _ask(process)
    os.kill(_child(process), signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert _kept(session) == ["user", "assistant"]


@pytest.mark.parametrize("what", ["answer", "sleep"])
def test_a_script_as_process_one_ends(
    tiny_model: TinyModel, process_one: tuple[str, ...], what: str
) -> None:
    with subprocess.Popen(
        [*process_one, sys.executable, "-c", _SCRIPT, str(tiny_model("tiny-llama")), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for _ in range(2 if what == "answer" else 1):
            process.stdout.readline()
        os.kill(_child(process), signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert b"Traceback" not in said


_SERVING = """
import sys
import time
from flexinfer import Server
with Server(sys.argv[1], memory="130MiB") as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


def test_a_script_with_a_server_as_process_one_ends(
    tiny_model: TinyModel, process_one: tuple[str, ...]
) -> None:
    with subprocess.Popen(
        [*process_one, sys.executable, "-c", _SERVING, str(tiny_model("tiny-llama"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        os.kill(_child(process), signal.SIGTERM)
        guard = threading.Timer(30, process.kill)
        guard.start()
        _, said = process.communicate()
        guard.cancel()
    assert process.returncode == 143, said
    assert b"Traceback" not in said


def test_a_download_of_process_one_ends(
    process_one: tuple[str, ...], fake_hub: FakeHub, tmp_path: Path
) -> None:
    fake_hub.stall_after = 1000
    variables = {"HF_ENDPOINT": fake_hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        [*process_one, *FLEXINFER, "run", f"hf:{REPO}:q8_0", "-p", "one"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | variables | {"HF_HUB_DISABLE_XET": "1"},
    ) as process:
        assert fake_hub.stalled.wait(60)
        os.kill(_child(process), signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said
    assert b"Traceback" not in said
