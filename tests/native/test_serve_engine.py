"""The engine's routes: plan and figures of what runs, a budget that changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.served import Served, serving
from support.tiny_model import TinyModel

MIB = 1 << 20
ASKED: dict[str, Any] = {
    "prompt": [3, 4, 5],
    "n_predict": 8,
    "temperature": 0,
    "return_tokens": True,
}


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("tiny-llama", "q4_0")


@pytest.fixture
def server(model: Path) -> Iterator[Served]:
    with serving(model, "--memory", "400MiB", "--ctx", 256) as served:
        yield served


def test_plan_figures_and_metrics_are_those_of_what_runs(server: Served) -> None:
    plan = server.get("/engine/plan")[1]
    assert (plan["server"]["slots"], plan["server"]["slot_ctx"], plan["ctx"]) == (1, 256, 256)
    assert plan["weight_bytes"] >= plan["locked_bytes"] > 0
    before = server.stats
    server.complete(**ASKED)
    after = server.stats
    assert after["passes"] - before["passes"] == ASKED["n_predict"]
    assert after["read_bytes"] > before["read_bytes"]
    assert 0 < after["memory"]["used"] < after["memory"]["budget"] == 400 * MIB
    lines = server.request("GET", "/metrics")[2].decode()
    assert "llamacpp:tokens_predicted_total 8" in lines
    assert f"flexinfer_passes_total {after['passes']}" in lines
    assert f"flexinfer_memory_budget_bytes {400 * MIB}" in lines


def test_the_budget_changes_between_answers_that_stay_the_same(server: Served) -> None:
    expected = server.complete(**ASKED)["tokens"]
    for memory in ("200MiB", "300MiB"):
        status, answer = server.post("/engine/memory", {"memory": memory})
        assert status == 200, answer
        assert server.stats["memory"]["budget"] == answer["memory"] == int(memory[:3]) * MIB
        assert server.complete(**ASKED)["tokens"] == expected
    status, answer = server.post("/engine/memory", {"memory": "50MiB"})
    assert status == 400
    assert "give a larger memory budget" in answer["error"]["message"]
    assert server.stats["memory"]["budget"] == 300 * MIB
    assert server.complete(**ASKED)["tokens"] == expected
