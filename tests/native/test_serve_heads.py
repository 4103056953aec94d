"""Answers of the server that the model's own trained head drafts: the same ones, in one budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.architectures import headed, tiny
from support.command import flexinfer
from support.drafted_answers import TOKENS, answered, asked
from support.quantised import quantised
from support.served import serving

SIZES = ("--ctx", 640, "--ubatch", 64, "--threads", 2, "--slots", 1)
# llama.cpp's own lengths, whatever drafts bring: tiny models take no time to read.
BY_HEAD = ("--spec-type", "draft-mtp", "--spec-draft-n-max", 5)


@pytest.mark.parametrize(
    ("name", "heads", "right", "ftype"),
    [
        ("hy_v3-moe", 1, True, None),
        ("hy_v3-moe", 1, False, None),
        ("hy_v3-moe", 1, True, "q8_0"),
        ("step35-moe", 2, True, None),
        ("step35-moe", 2, True, "q4_0"),
        ("cohere2moe-moe", 1, True, None),
    ],
)
def test_a_head_changes_no_bit(
    name: str, heads: int, right: bool, ftype: str | None, tmp_path: Path
) -> None:
    model = headed.write(name, tmp_path, heads, right=right)
    if ftype is not None:
        model = quantised(model, ftype, tmp_path)
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


@pytest.mark.parametrize("draft", ["mtp", "auto"])
def test_a_file_of_requests_is_drafted_for_by_a_head(draft: str, tmp_path: Path) -> None:
    model = headed.write("hy_v3-moe", tmp_path)
    source = tmp_path / "in.jsonl"
    body = {"max_tokens": 20, "temperature": 0, "prompt": asked()["prompt"][:60]}
    line = {"custom_id": "r", "method": "POST", "url": "/v1/completions", "body": body}
    source.write_text(json.dumps(line) + "\n")
    said = []
    for way in ("off", draft):
        out = tmp_path / f"{way}.jsonl"
        sizes = ("--memory", "400MiB", "--slots", 1, "--ctx", 128, "--no-repack")
        done = flexinfer("batch", source, out, model, *sizes, "--draft", way, "--json")
        assert done.returncode == 0, done.stderr
        said.append(json.loads(out.read_text())["response"]["body"]["choices"][0]["text"])
        drafts = json.loads(done.stdout).get("drafts")
        assert (drafts is None) == (way == "off")
    assert "own trained head" in done.stderr
    assert drafts["tokens"] > 0
    assert said[0] == said[1] != ""
