"""Progress of a batch: plain arithmetic."""

from __future__ import annotations

from flexinfer.batch.progress import Progress


def test_before_the_first_answer_nothing_is_foretold() -> None:
    progress = Progress(total=10, began=100.0, bound_tok_s=8.0)
    assert progress.left_s(160.0) is None
    assert progress.line(160.0) == "0 of 10 requests"


def test_the_rest_is_expected_to_go_on_like_this() -> None:
    progress = Progress(total=10, began=100.0, bound_tok_s=8.0)
    for _ in range(4):
        progress.note({"usage": {"completion_tokens": 50}})
    assert progress.rate(140.0) == 5.0
    assert progress.left_s(140.0) == 60.0
    assert progress.line(140.0) == "4 of 10 requests, 5 tokens/s of 8 at most, 1:00 left"


def test_answers_without_tokens_count_as_requests() -> None:
    progress = Progress(total=2, began=0.0, bound_tok_s=8.0)
    for body in ({"error": "no"}, ["odd"]):
        progress.note(body)
    assert progress.line(4000.0) == "2 of 2 requests"


def test_hours() -> None:
    progress = Progress(total=3, began=0.0, bound_tok_s=8.0, answered=1)
    assert progress.line(1900.0).endswith("1:03:20 left")
