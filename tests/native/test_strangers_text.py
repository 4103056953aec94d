"""What strangers write: names and tokens with markup and escape sequences, bytes of no text."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import FLEXINFER, assert_one_sentence, flexinfer
from support.tiny_model import TinyModel

_NAME = b"tiny-llama (random weights)"
_HOSTILE = b"[b]$x$\x1b]0;o\x07[/INST]\x9b[/b][x]"
_ANSWER = ("-p", "one", "-n", "12", "--temp", "0", "--weight-memory", "2MiB")


def _prefixed(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _acting(text: bytes) -> bytes:
    """As many bytes that make a terminal act, unlike those of other tokens."""
    return b"\x1b" + text[1:] if text[0] % 2 else "\x9b".encode() + text[2:]


@pytest.fixture(scope="module")
def hostile(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose name is markup, and whose answers consist of escape sequences."""
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / "hostile.gguf"
    content = tiny_model("tiny-llama").read_bytes()
    assert len(_HOSTILE) == len(_NAME)
    path.write_bytes(content.replace(_prefixed(_NAME), _prefixed(_HOSTILE)))
    # Tokens of an answer may be those of a question, too: then the next one is another.
    for _ in range(3):
        document = json.loads(flexinfer("run", path, *_ANSWER, "--json").stdout)
        flexinfer("chat", path, *_ANSWER[2:], "--session", folder / "s.json", text="one\n")
        talk = json.loads((folder / "s.json").read_text())
        (folder / "s.json").unlink()
        _make_act(path, document["token_ids"] + talk["tokens"][-12:])
    return path


def _make_act(path: Path, tokens: list[int]) -> None:
    from flexinfer import Llama
    from flexinfer.binding.private import token_text

    with Llama(str(path), vocab_only=True, verbose=False) as llm:
        texts = {token_text(llm, token).encode() for token in tokens}
    content = path.read_bytes()
    for text in texts:
        if len(text) > 2 and text.isalpha():
            content = content.replace(_prefixed(text), _prefixed(_acting(text)))
        elif text.startswith("▁".encode()):
            content = content.replace(_prefixed(text), _prefixed("\u202e".encode() + text[3:]))
    path.write_bytes(content)


def _only_shown(said: str) -> None:
    acting = [sign for sign in said if ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0]
    assert set(acting) <= {"\n"}
    assert not set("\u202e\u2066") & set(said)


@pytest.mark.parametrize("command", ["run", "chat", "plan"])
def test_names_and_answers_do_nothing_to_a_terminal(hostile: Path, command: str) -> None:
    words = {"run": _ANSWER, "chat": _ANSWER[2:], "plan": ("--memory", "200MiB")}[command]
    done = flexinfer(command, hostile, *words, "-v", text="one\n")
    assert done.returncode == 0, done.stderr
    _only_shown(done.stdout + done.stderr)
    if command == "plan":
        assert done.stdout.startswith(r"[b]$x$\x1b]0;o\x07[/INST]" + "\ufffd" + "[/b][x]: llama")
    else:
        assert "\\x" in done.stdout


def test_programs_get_what_the_model_wrote(hostile: Path) -> None:
    document = json.loads(flexinfer("run", hostile, *_ANSWER, "--json").stdout)
    assert "\x9b" in document["text"]
    name = json.loads(flexinfer("plan", hostile, "--memory", "200MiB", "--json").stdout)["model"]
    assert name == _HOSTILE.decode("utf-8", "replace")


def test_a_picture_of_a_name_with_formulas(hostile: Path, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    words = ("--memory", "200MiB", "--png", picture)
    assert flexinfer("plan", hostile, *words).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def unnamed(tiny_model: TinyModel, tmp_path: Path) -> str:
    """A model under a name that is no UTF-8."""
    path = os.path.join(os.fsencode(tmp_path), b"m\xff\x1b[2J.gguf")
    Path(os.fsdecode(path)).write_bytes(tiny_model("tiny-llama").read_bytes())
    return os.fsdecode(path)


@pytest.mark.parametrize("command", ["run", "chat", "plan", "doctor"])
def test_file_names_that_are_no_text(unnamed: str, command: str) -> None:
    words = {"run": _ANSWER, "chat": _ANSWER[2:]}.get(command, ())
    done = flexinfer(command, unnamed, *words, text="one\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout
    _only_shown(done.stdout + done.stderr)
    wrong = flexinfer(command, f"{unnamed}.none", text="one\n")
    assert r"m\xff\x1b[2J.gguf.none" in wrong.stdout + wrong.stderr
    _only_shown(wrong.stdout + wrong.stderr)


def _raw(*words: str | bytes, text: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*FLEXINFER, *words], input=text, capture_output=True, timeout=120, check=False
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def test_prompts_that_are_no_text_are_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = str(tiny_model("tiny-llama"))
    (tmp_path / "prompt").write_bytes(b"ab\xe9")
    said = "is no UTF-8 text: byte 0xe9 at 2; convert it"
    assert_one_sentence(_raw("run", model, "-p", b"ab\xe9"), f"the prompt {said}")
    assert_one_sentence(_raw("run", model, text=b"ab\xe9"), f"standard input {said}")
    assert_one_sentence(_raw("run", model, "-f", str(tmp_path / "prompt")), f"prompt {said}")
    assert_one_sentence(_raw("run", model, "-p", "x", "--stop", b"ab\xe9"), said, code=2)
    assert_one_sentence(_raw("chat", model, "--system", b"ab\xe9"), said, code=2)
    assert_one_sentence(_raw("demo", "-p", b"ab\xe9"), said, code=2)


def test_a_line_that_is_no_text_ends_no_conversation(tiny_model: TinyModel) -> None:
    done = _raw("chat", str(tiny_model("tiny-llama")), *_ANSWER[2:], text=b"ab\xe9\none\n")
    assert done.returncode == 0, done.stderr
    assert "the message is no UTF-8 text: byte 0xe9 at 2" in done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 1, "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"version": 1, "messages": [{"role": "user", "content": 5}]}',
        b'{"version": 1, "messages": [{"role": [], "content": ""}], "tokens": [], "cached": []}',
        b"null",
    ],
)
def test_sessions_of_strangers_are_refused(
    tiny_model: TinyModel, tmp_path: Path, content: bytes
) -> None:
    session = tmp_path / "s.json"
    session.write_bytes(content)
    done = _raw("chat", str(tiny_model("tiny-llama")), "--session", str(session), text=b"one\n")
    assert_one_sentence(done, "s.json is not a session of flexinfer")
    assert session.read_bytes() == content


def test_tokens_that_the_model_does_not_have_are_made_again(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    session = tmp_path / "s.json"
    words = ("chat", str(tiny_model("tiny-llama")), *_ANSWER[2:], "--session", str(session))
    assert _raw(*words, text=b"one\n").returncode == 0
    document = json.loads(session.read_text())
    session.write_text(json.dumps(document | {"tokens": [10**30, -1], "cached": [10**30]}))
    done = _raw(*words, text=b"two\n")
    assert done.returncode == 0, done.stderr
    assert "computed again" in done.stderr
    assert done.stdout


def test_without_v_nothing_of_llama_cpp_reaches_the_screen(tiny_model: TinyModel) -> None:
    """Neither warnings while contexts are measured, nor why something failed."""
    model = str(tiny_model("tiny-llama"))
    words = ("run", model, "--ctx", "9000", *_ANSWER)
    done = flexinfer(*words)
    assert done.returncode == 0
    for line in done.stderr.splitlines():
        assert "n_ctx_train" not in line
        assert not line.startswith(("llama_", "ggml_", "load_", "~llama"))
    loud = flexinfer(*words, "-v")
    assert "n_ctx_train" in loud.stderr
    quiet = flexinfer(*words, "-q")
    assert quiet.stderr == ""
    assert quiet.stdout == done.stdout


def test_the_class_is_as_quiet(tiny_model: TinyModel) -> None:
    code = (
        "import sys; from flexinfer import Llama\n"
        "with Llama(sys.argv[1], n_ctx=9000, weight_memory='2MiB', verbose=False) as llm:\n"
        "    llm.create_completion('one', max_tokens=2)\n"
    )
    command = [sys.executable, "-c", code, str(tiny_model("tiny-llama"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
