"""Answers of the server that the model's own trained head drafts: the same ones, in one budget."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.architectures import headed, tiny
from support.drafted_answers import TOKENS, answered, asked
from support.served import serving

SIZES = ("--ctx", 640, "--ubatch", 64, "--threads", 2, "--slots", 1)
# llama.cpp's own lengths, whatever drafts bring: tiny models take no time to read.
BY_HEAD = ("--spec-type", "draft-mtp", "--spec-draft-n-max", 5)


@pytest.mark.parametrize(
    ("name", "heads", "right"),
    [
        ("hy_v3-moe", 1, True),
        ("hy_v3-moe", 1, False),
        ("step35-moe", 2, True),
        ("cohere2moe-moe", 1, True),
    ],
)
def test_a_head_changes_no_bit(name: str, heads: int, right: bool, tmp_path: Path) -> None:
    model = headed.write(name, tmp_path, heads, right=right)
    sizes = (model, *SIZES, "--weight-memory", "12MiB")
    with serving(*sizes, "--", "--swa-full") as served:
        expected = answered(served)
    with serving(*sizes, "--", *BY_HEAD) as served:
        assert answered(served) == expected
        drafts, memory = served.stats["drafts"], served.stats["memory"]
    assert drafts["drafted"] > TOKENS
    # Of a greedy answer most are right, of the sampled one few.
    assert (drafts["accepted"] > TOKENS // 2) == right
    assert memory["draft"] == drafts["bytes"] > 0


@pytest.mark.parametrize("way", ["mtp", "auto"])
def test_a_head_is_planned_within_the_budget(way: str, tmp_path: Path) -> None:
    model = headed.write("hy_v3-moe", tmp_path)
    slots = 1 if way == "mtp" else 4
    sizes = (model, "--ctx", 640, "--slots", slots, "--memory", "400MiB", "--draft", way)
    with serving(*sizes) as served:
        answers = served.complete_together([asked() for _ in range(slots)])
        assert [len(answer["tokens"]) for answer in answers] == [TOKENS] * slots
        _, plan = served.get("/engine/plan")
        assert any("own trained head" in line for line in plan["server"]["said"])
        stats = served.stats
        assert stats["drafts"]["accepted"] > 0
        assert 0 < stats["memory"]["draft"] < stats["memory"]["used"] <= stats["memory"]["budget"]


def test_what_has_no_head_is_drafted_for_from_its_text(tmp_path: Path) -> None:
    model = tiny.write("hy_v3-moe", tmp_path)
    with serving(model, "--ctx", 128, "--memory", "300MiB", "--draft", "auto") as served:
        _, plan = served.get("/engine/plan")
    assert any("from what was written before" in line for line in plan["server"]["said"])
