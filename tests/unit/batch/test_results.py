"""Results: whole records or none, and going on where a run before has stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexinfer.batch.requests import BadLine, Request
from flexinfer.batch.results import Results
from flexinfer.errors import RequestError

FIRST = Request(1, "a", "/v1/completions", {})
SECOND = Request(2, "b", "/v1/completions", {})
BAD = BadLine(3, None, "line 3 is no JSON")


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_records_have_the_form_of_the_batch_api(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Results(out) as results:
        results.add_answer(FIRST, 200, {"choices": ["ä"]})
        results.add_error(BAD, "invalid_line", BAD.why)
    assert records(out) == [
        {
            "id": "batch_req_1",
            "custom_id": "a",
            "response": {
                "status_code": 200,
                "request_id": "batch_req_1",
                "body": {"choices": ["ä"]},
            },
            "error": None,
        },
        {
            "id": "batch_req_3",
            "custom_id": None,
            "response": None,
            "error": {"code": "invalid_line", "message": "line 3 is no JSON"},
        },
    ]


def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    with Results(tmp_path / "out") as results:
        results.add_answer(FIRST, 200, {})
    with Results(tmp_path / "out") as results:
        assert results.has(FIRST)
        assert not results.has(SECOND)
        assert not results.has(BAD)


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_record_that_was_cut_off_is_asked_again(tmp_path: Path, kept: int) -> None:
    out = tmp_path / "out"
    with Results(out) as results:
        results.add_answer(FIRST, 200, {})
        whole = out.read_bytes()
        results.add_answer(SECOND, 200, {})
    out.write_bytes(whole + out.read_bytes()[len(whole) :][:kept])
    with Results(out) as results:
        assert (results.has(FIRST), results.has(SECOND)) == (True, False)
        assert out.read_bytes() == whole
        results.add_answer(SECOND, 200, {})
    assert [record["custom_id"] for record in records(out)] == ["a", "b"]


def test_each_record_is_on_disk_at_once(tmp_path: Path) -> None:
    with Results(tmp_path / "out") as results:
        results.add_answer(FIRST, 200, {})
        assert len(records(tmp_path / "out")) == 1


def test_results_of_another_batch_are_not_gone_on_with(tmp_path: Path) -> None:
    with Results(tmp_path / "out") as results:
        results.add_answer(FIRST, 200, {})
        with pytest.raises(RequestError, match=r"line 1 is that of 'a', but the line asks 'z'"):
            results.has(Request(1, "z", "/v1/completions", {}))


@pytest.mark.parametrize("text", ["hello\n", "{}\n", "[]\n", '{"id": 3, "custom_id": "a"}\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "out").write_text(text)
    with pytest.raises(RequestError, match="line 1 is no result of a batch"):
        Results(tmp_path / "out")
    assert (tmp_path / "out").read_text() == text


def test_a_full_disk_is_told_in_a_sentence() -> None:
    with (
        Results(Path("/dev/full")) as results,
        pytest.raises(RequestError, match="cannot write /dev/full: No space left on device"),
    ):
        results.add_answer(FIRST, 200, {})


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot write .*: No such file or directory"):
        Results(tmp_path / "nowhere" / "out")
