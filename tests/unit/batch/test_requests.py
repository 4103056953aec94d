"""Batch files: what a line asks, and what is wrong with one that asks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexinfer.batch.requests import BadLine, Request, read_requests
from flexinfer.errors import RequestError

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def line(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


def read(path: Path, text: str | bytes) -> list[Request | BadLine]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_requests(path))


def test_lines_keep_their_order_and_their_numbers(tmp_path: Path) -> None:
    asked = read(tmp_path / "in", f"{line()}\n\n{line(custom_id='b')}")
    assert asked == [
        Request(1, "a", "/v1/completions", {"prompt": "x"}),
        Request(3, "b", "/v1/completions", {"prompt": "x"}),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "line 1 is no JSON"),
        (b"\xff\xfe", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ("[]", "line 1 is no JSON object"),
        ("{}", 'line 1 has no "custom_id"'),
        (line(custom_id=7), 'line 1 has no "custom_id"'),
        (line(method="GET"), "line 1: method 'GET' is not POST"),
        (line(url="/v1/files"), "line 1: url '/v1/files' is none of /v1/chat/completions"),
        (line(url=None), "line 1: url None is none of"),
        (line(body="x"), 'line 1: "body" is no JSON object'),
        (line(body={"stream": True}), 'leave "stream" out'),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path: Path, text: str | bytes, why: str) -> None:
    (bad,) = read(tmp_path / "in", text)
    assert isinstance(bad, BadLine)
    assert why in bad.why


def test_a_name_stands_for_one_line(tmp_path: Path) -> None:
    first, second = read(tmp_path / "in", f"{line()}\n{line()}\n")
    assert isinstance(first, Request)
    assert second == BadLine(2, "a", "line 2: custom_id 'a' stands on a line before")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot read .*nothing: No such file"):
        list(read_requests(tmp_path / "nothing"))


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("flexinfer.batch.requests._MOST_BYTES", 1 << 10)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n" + b"\0" * 2048)
    with pytest.raises(RequestError, match=r"line 2 of .* has more than 1\.00 KiB"):
        list(read_requests(path))
