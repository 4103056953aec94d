"""Sending: slots that are never empty, each request answered once, and ends that lose nothing."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.answering_server import answering

from flexinfer.batch import sending
from flexinfer.batch.requests import BadLine, Request
from flexinfer.batch.results import Results
from flexinfer.batch.sending import Sender
from flexinfer.errors import EngineError

pytestmark = pytest.mark.usefixtures("no_leaks")


def requests(count: int) -> list[Request | BadLine]:
    return [Request(n, f"r{n}", "/v1/completions", {"n": n}) for n in range(1, count + 1)]


def fine(body: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"made": body["n"]}


def records(path: Path) -> dict[str, Any]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    by_name = {record["custom_id"]: record for record in found}
    assert len(by_name) == len(found), "a request has two records"
    return by_name


def test_each_request_gets_its_own_answer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[Any] = []
    with answering(fine) as server, Results(out) as results:
        Sender(server.url, None, 4, told.append).send(requests(40), results)
        # Each of six connections asks when it has an answer, so neighbours may swap.
        assert all(abs(body["n"] - at) <= 6 for at, body in enumerate(server.asked, 1))
    found = records(out)
    assert [found[f"r{n}"]["response"]["body"]["made"] for n in range(1, 41)] == [*range(1, 41)]
    assert len(told) == 40


def test_as_many_wait_as_keep_the_slots_filled(tmp_path: Path) -> None:
    all_there = threading.Barrier(6, timeout=20)

    def together(body: dict[str, Any]) -> tuple[int, Any]:
        all_there.wait()
        time.sleep(0.1)  # in which one too many would come
        return fine(body)

    with answering(together) as server, Results(tmp_path / "out") as results:
        Sender(server.url, None, 4, lambda body: None).send(requests(12), results)
        assert server.most == 6


def test_a_refused_request_is_a_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with answering(lambda body: (400, {"error": "no"})) as server, Results(out) as results:
        Sender(server.url, None, 1, lambda body: None).send(requests(1), results)
    assert records(out)["r1"]["response"]["status_code"] == 400


def test_bad_lines_are_recorded_and_not_sent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked: list[Request | BadLine] = [BadLine(1, "x", "line 1: no"), *requests(3)[1:]]
    with answering(fine) as server, Results(out) as results:
        Sender(server.url, None, 1, lambda body: None).send(asked, results)
        assert len(server.asked) == 2
    assert records(out)["x"]["error"] == {"code": "invalid_line", "message": "line 1: no"}


def test_what_failed_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_BACKOFF_SECONDS", 0.0)
    failures = [503, 500]

    def at_last(body: dict[str, Any]) -> tuple[int, Any]:
        return (failures.pop(), {}) if failures else fine(body)

    with answering(at_last) as server, Results(tmp_path / "out") as results:
        Sender(server.url, None, 1, lambda body: None).send(requests(1), results)
        assert len(server.asked) == 3
    assert records(tmp_path / "out")["r1"]["response"]["status_code"] == 200


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with answering(fine) as server:
        with Results(out) as results:
            Sender(server.url, None, 2, lambda body: None).send(requests(5), results)
        with Results(out) as results:
            Sender(server.url, None, 2, lambda body: None).send(requests(9), results)
        assert sorted(body["n"] for body in server.asked) == [*range(1, 10)]
    assert len(records(out)) == 9


def test_what_is_under_way_at_a_stop_is_not_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[int] = []

    def noting(body: dict[str, Any]) -> tuple[int, Any]:
        seen.append(body["n"])
        return fine(body)

    with answering(noting) as server:
        sender = Sender(server.url, None, 1, lambda body: None, lambda: 3 in seen)
        with Results(out) as results:
            sender.send(requests(1000), results)
        assert len(server.asked) < 10
    assert "r3" not in records(out)


def test_a_server_that_is_gone_ends_the_batch_in_a_sentence(tmp_path: Path) -> None:
    with answering(fine) as server:
        url = server.url
    with (
        Results(tmp_path / "out") as results,
        pytest.raises(EngineError, match=r"the server went away at line 1: .*goes on"),
    ):
        Sender(url, None, 1, lambda body: None).send(requests(3), results)
    assert records(tmp_path / "out") == {}


def test_the_key_is_brought_along(tmp_path: Path) -> None:
    assert Sender("http://x", "k", 1, print)._headers == {"Authorization": "Bearer k"}
