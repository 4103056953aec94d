"""Conversations: kept caches, sessions, Ctrl-C, input of several lines."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.tiny_model import TinyModel

from flexinfer.errors import RequestError


@pytest.fixture
def llm(tiny_model: TinyModel) -> Iterator[Any]:
    from flexinfer import Llama

    path = str(tiny_model("tiny-llama"))
    with Llama(path, weight_memory="2MiB", n_ctx=256, n_batch=64, n_threads=2, verbose=False) as m:
        yield m


def _talk(llm: Any, system: str | None = None) -> Any:
    from flexinfer.chat.conversation import Conversation

    return Conversation(llm, system, temp=0.0)


def _evaluated(llm: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    evaluate = llm.eval

    def counted(tokens: list[int]) -> None:
        sizes.append(len(tokens))
        evaluate(tokens)

    monkeypatch.setattr(llm, "eval", counted)
    return sizes


def test_a_second_turn_computes_only_what_is_new(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = _talk(llm, "be brief")
    first = "".join(talk.ask("one", limit=6))
    sizes = _evaluated(llm, monkeypatch)
    known = llm.n_tokens
    second = "".join(talk.ask("two", limit=6))
    assert sizes[0] + known - llm.n_tokens <= 1
    assert sizes[0] < known
    assert [m["role"] for m in talk.messages] == ["system", *["user", "assistant"] * 2]
    assert [talk.messages[2]["content"], talk.messages[4]["content"]] == [first, second]


def test_the_cache_changes_no_answer(llm: Any) -> None:
    talk = _talk(llm)
    for text in ("one", "two"):
        list(talk.ask(text, limit=6))
    kept = list(llm.input_ids[: llm.n_tokens])
    llm.reset()
    llm.eval(kept[:-1])
    import numpy as np

    again = np.argmax(llm._ctx.get_logits_ith(-1)[: llm.n_vocab()])
    assert again == kept[-1]


def test_a_stopped_answer_stays_part_of_the_conversation(llm: Any) -> None:
    talk = _talk(llm)
    answer = talk.ask("one", limit=20)
    begun = next(answer)
    with pytest.raises(KeyboardInterrupt):
        answer.throw(KeyboardInterrupt)
    assert talk.messages[-1]["role"] == "assistant"
    assert talk.messages[-1]["content"].startswith(begun)
    assert "".join(talk.ask("two", limit=4))


def test_the_oldest_turns_go_when_the_context_is_full(llm: Any) -> None:
    talk = _talk(llm, "be brief")
    for number in range(8):
        list(talk.ask(f"{number} " + "word " * 4, limit=16))
    assert talk.dropped > 0
    assert talk.messages[0] == {"role": "system", "content": "be brief"}
    assert llm.n_tokens <= 256


def test_a_message_larger_than_the_context_is_refused(llm: Any) -> None:
    talk = _talk(llm)
    with pytest.raises(RequestError, match="larger --ctx"):
        list(talk.ask("word " * 400))
    assert talk.messages == []


def test_a_session_goes_on_where_it_was(
    llm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexinfer.chat.session import SessionFile

    talk = _talk(llm)
    list(talk.ask("one", limit=8))
    path = tmp_path / "session.json"
    SessionFile(path).save(llm, talk.session)
    expected = "".join(talk.ask("two", limit=8))
    llm.reset()
    llm._ctx.kv_cache_clear()
    session = SessionFile(path).load(llm)
    assert session.cached
    resumed = _talk(llm)
    resumed.resume(session)
    sizes = _evaluated(llm, monkeypatch)
    known = llm.n_tokens
    assert "".join(resumed.ask("two", limit=8)) == expected
    assert sizes[0] < known


def test_a_session_of_another_model_gives_its_messages_only(
    llm: Any, tmp_path: Path, tiny_model: TinyModel
) -> None:
    from flexinfer import Llama
    from flexinfer.chat.session import Session, SessionFile

    talk = _talk(llm)
    list(talk.ask("one", limit=4))
    path = tmp_path / "session.json"
    SessionFile(path).save(llm, talk.session)
    with Llama(str(tiny_model("tiny-wide")), weight_memory="32MiB", verbose=False) as other:
        assert SessionFile(path).load(other) == Session(talk.messages, [], False)
    (tmp_path / "session.json.kv").write_bytes(b"not a cache")
    assert not SessionFile(path).load(llm).cached


@pytest.mark.parametrize("made", ["--repack", "--no-repack"])
def test_a_session_keeps_its_kernels(tiny_model: TinyModel, tmp_path: Path, made: str) -> None:
    from flexinfer.cli.chat import command

    other = {"--repack": "--no-repack", "--no-repack": "--repack"}[made]
    kernels = "packed" if made == "--repack" else "plain"
    options = ("--weight-memory", "2M", "--ctx", "256", "-n", "3", "--threads", "2")
    arguments = [
        *(str(tiny_model("tiny-llama", "q4_0")), *options),
        *("--session", str(tmp_path / "s.json")),
    ]

    def chat(*more: str) -> Result:
        return CliRunner().invoke(command, [*arguments, *more], input="one\n")

    first = chat(made)
    assert first.exit_code == 0, first.output
    for again in (chat(), chat(made)):
        assert again.exit_code == 0, again.output
        assert f"{kernels} kernels" in again.stderr
        assert "resumed" in again.stderr
        assert "computed again" not in again.stderr
    refused = chat(other)
    assert isinstance(refused.exception, RequestError)
    assert f"computed with {kernels} kernels, whose bits {other} does not" in str(refused.exception)


def test_another_models_session_says_nothing_of_kernels(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    from flexinfer.cli.chat import command

    path = tmp_path / "s.json"
    for preset, how in (("tiny-llama", "--repack"), ("tiny-wide", "--no-repack")):
        result = CliRunner().invoke(
            command,
            [
                *(str(tiny_model(preset, "q4_0")), how, "--weight-memory", "32M"),
                *("--ctx", "256", "-n", "3", "--session", str(path)),
            ],
            input="one\n",
        )
        assert result.exit_code == 0, result.output


def test_what_is_no_session_is_refused(llm: Any, tmp_path: Path) -> None:
    from flexinfer.chat.session import SessionFile

    path = tmp_path / "notes.txt"
    path.write_text("some notes")
    with pytest.raises(RequestError, match="not a session"):
        SessionFile(path).load(llm)


def test_lines_commands_and_blocks(tiny_model: TinyModel, tmp_path: Path) -> None:
    from flexinfer.cli.chat import command

    session = tmp_path / "s.json"
    typed = 'one\\\ntwo\n/speed\n"""\nthree\n\nfour\n"""\n/nothing\n/exit\nnever\n'
    result = CliRunner().invoke(
        command,
        [
            str(tiny_model("tiny-llama")),
            *("--weight-memory", "2M", "--ctx", "256", "-n", "3", "--session", str(session)),
        ],
        input=typed,
    )
    assert result.exit_code == 0, result.output
    assert result.stderr.count("tokens computed") == 1
    assert "no command /nothing" in result.stderr
    import json

    sent = [m["content"] for m in json.loads(session.read_text())["messages"]]
    assert sent[::2] == ["one\ntwo", "three\n\nfour"]


def test_ctrl_c_stops_the_answer_and_not_the_program(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-wide", "f16"))
    command = [sys.executable, "-m", "flexinfer", "chat", path, "--weight-memory", "12M"]
    with subprocess.Popen(
        [*command, "--ctx", "4096", "--temp", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write(b"one\n")
        chat.stdin.flush()
        assert chat.stdout.read(1)
        chat.send_signal(signal.SIGINT)
        chat.stdin.write(b"/exit\n")
        _, log = chat.communicate(timeout=60)
    assert chat.returncode == 0, log
    assert b"[stopped]" in log
