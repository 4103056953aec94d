"""A server whose drive fails or hangs, and clients that go away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.faulty_drive import FaultyDrive
from support.model_drive import holding
from support.served import ASKED, Served, events, serving
from support.tiny_model import TinyModel

CHAT = {"messages": [{"role": "user", "content": "O"}], "max_tokens": 4000}


@pytest.fixture(scope="module")
def drive(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyDrive]:
    folder = tmp_path_factory.mktemp("drive")
    with holding(tiny_model("tiny-llama", "q4_0"), folder) as drive:
        yield drive


@pytest.fixture(scope="module")
def server(drive: FaultyDrive) -> Iterator[Served]:
    drive.set("none")
    sizes = ("--slots", 3, "--ctx", 4096, "--ubatch", 64, "--weight-memory", "1MiB")
    with serving(drive.folder / "model.gguf", *sizes) as served:
        _, plan = served.get("/engine/plan")
        assert plan["streamed_bytes"] > 0
        yield served


@pytest.fixture
def answers(server: Served, drive: FaultyDrive) -> Iterator[Served]:
    """The server, which answers after the test as before."""
    expected = server.complete(**ASKED)["tokens"]
    yield server
    drive.set("none")
    assert server.complete(**ASKED)["tokens"] == expected
    assert server.process.poll() is None


def assert_ours(error: dict[str, Any]) -> None:
    assert error["code"] == 500
    assert "model.gguf" in error["message"]
    assert "check the drive" in error["message"]


def test_a_drive_that_fails_answers_with_its_sentence(answers: Served, drive: FaultyDrive) -> None:
    for _ in range(3):
        drive.set("error")
        status, answer = answers.post("/completion", ASKED)
        assert status == 500
        assert_ours(answer["error"])
        drive.set("none")
        assert answers.complete(**ASKED)["tokens"]


@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions", "/v1/messages"])
def test_streams_under_way_end_with_the_sentence(
    answers: Served, drive: FaultyDrive, path: str
) -> None:
    body = ASKED | {"n_predict": 4000} if path == "/completion" else CHAT
    endless = ASKED | {"n_predict": 4000}
    with (
        answers.stream(path, body | {"ignore_eos": True}) as one,
        answers.stream("/completion", endless) as other,
    ):
        streams = [events(one), events(other)]
        for stream in streams:
            assert "error" not in next(stream)
        drive.set("error")
        last = [list(stream)[-1] for stream in streams]
    for event in last:
        assert_ours(event.get("error", event))


def test_a_drive_that_fails_once_is_not_seen(answers: Served, drive: FaultyDrive) -> None:
    expected = answers.complete(**ASKED)["tokens"]
    drive.set("once")
    assert answers.complete(**ASKED)["tokens"] == expected
    assert drive.fault == "none"


def test_a_drive_that_hangs_holds_only_those_who_wait(answers: Served, drive: FaultyDrive) -> None:
    expected = answers.complete(**ASKED)["tokens"]
    with answers.stream("/completion", ASKED | {"n_predict": 200}) as answer:
        coming = events(answer)
        next(coming)
        drive.set("hang")
        assert answers.get("/health")[0] == 200
        assert answers.stats["memory"]["locked"] > 0
        drive.set("none")
        assert "error" not in list(coming)[-1]
    assert answers.complete(**ASKED)["tokens"] == expected


def test_a_client_that_goes_away_frees_its_slot(answers: Served) -> None:
    for _ in range(4):
        with answers.stream("/completion", ASKED | {"n_predict": 4000}) as answer:
            next(events(answer))
    # Three slots: with four of them taken until the end this would wait for 4,000 tokens.
    before = answers.stats["passes"]
    assert answers.complete(**ASKED)["tokens_predicted"] == 8
    assert answers.stats["passes"] - before < 500
    status, slots = answers.get("/slots")
    assert status == 200
    assert sum(slot["is_processing"] for slot in slots) == 0


def test_a_hanging_drive_does_not_keep_an_ending_server_from_its_last_words(
    drive: FaultyDrive,
) -> None:
    drive.set("none")
    sizes = ("--slots", 2, "--ctx", 512, "--weight-memory", "1MiB")
    with (
        serving(drive.folder / "model.gguf", *sizes) as served,
        served.stream("/completion", ASKED | {"n_predict": 500}) as answer,
    ):
        coming = events(answer)
        next(coming)
        drive.set("hang")
        served.process.terminate()
        last = list(coming)[-1]
        # The kernel keeps a process for as long as a read of it is under way.
        drive.set("none")
        assert served.process.wait(5) == 0
    assert last["error"]["code"] == 503
    assert "the server is stopping" in last["error"]["message"]
