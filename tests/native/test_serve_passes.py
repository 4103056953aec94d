"""One pass over the weights a token, however many slots decode: counted by the engine itself."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.served import Served, events, serving

MODEL = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
SLOTS, TOKENS = 16, 24


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    sizes = ("--slots", SLOTS, "--ctx", 256, "--ubatch", 1024, "--weight-memory", "2MiB")
    with serving(MODEL, *sizes) as served:
        yield served


def passes(served: Served) -> int:
    return int(served.stats["passes"])


def wish(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    fixed = {"ignore_eos": True, "cache_prompt": False}
    return {"prompt": prompts, "n_predict": tokens, **fixed}


def complete(served: Served, prompts: list[list[int]], tokens: int) -> list[dict[str, Any]]:
    """The answers to a request of several prompts, which reach the slots together."""
    status, answers = served.post("/completion", wish(prompts, tokens))
    assert status == 200, answers
    return answers if isinstance(answers, list) else [answers]


def test_sixteen_choices_of_one_request_take_one_pass_a_token(server: Served) -> None:
    before = passes(server)
    asked = {"prompt": "ROMEO:", "n": SLOTS, "max_tokens": TOKENS, "ignore_eos": True}
    status, answer = server.post("/v1/completions", asked | {"cache_prompt": False})
    assert status == 200
    assert len(answer["choices"]) == SLOTS
    # The pass over the prompt gives each its first token.
    assert passes(server) - before == TOKENS


def test_sixteen_prompts_of_their_own_take_one_pass_a_token(server: Served) -> None:
    before = passes(server)
    answers = complete(server, [[3, 40 + number] for number in range(SLOTS)], TOKENS)
    assert [answer["tokens_predicted"] for answer in answers] == SLOTS * [TOKENS]
    assert passes(server) - before == TOKENS


def test_idle_slots_between_others_cost_no_pass(server: Served) -> None:
    before = passes(server)
    # Those whose prompt fills the slot end after a few tokens.
    filled = (3, 7, 8)
    prompts = [[5] * 250 if number in filled else [3, 40 + number] for number in range(SLOTS)]
    answers = complete(server, prompts, TOKENS)
    ended = [answer["id_slot"] for answer in answers if answer["tokens_predicted"] < TOKENS // 2]
    assert len(ended) == len(filled)
    assert all(0 < slot < SLOTS - 1 for slot in ended)
    assert passes(server) - before == TOKENS


def test_a_prompt_that_comes_in_beside_decodes_costs_no_pass(server: Served) -> None:
    before = passes(server)
    tokens = 200
    asked = wish([[3], [4], [5]], tokens)
    with server.stream("/completion", asked) as answer:
        coming = events(answer)
        for _ in range(3):
            next(coming)
        (short,) = complete(server, [[*range(10, 40)]], 1)
        assert short["tokens_predicted"] == 1
        last = [event for event in coming if event["stop"]]
    assert [event["tokens_predicted"] for event in last] == 3 * [tokens]
    assert passes(server) - before == tokens


def test_metrics_and_stats_agree(server: Served) -> None:
    complete(server, [[3]], 4)
    _, _, text = server.request("GET", "/metrics")
    figures = dict(line.split(" ") for line in text.decode().splitlines() if line[0] != "#")
    stats = server.stats
    assert int(figures["flexinfer_passes_total"]) == stats["passes"] > 0
    assert int(figures["flexinfer_read_bytes_total"]) == stats["read_bytes"] > 0
    assert float(figures["llamacpp:tokens_predicted_total"]) > 0


def test_the_plan_has_the_sizes_of_the_server_beside_its_own(server: Served) -> None:
    status, plan = server.get("/engine/plan")
    assert status == 200
    told = {key: plan["server"][key] for key in ("slots", "slot_ctx", "said", "answers", "memory")}
    sizes = {"slots": SLOTS, "slot_ctx": 256, "said": []}
    assert told == {**sizes, "answers": "chat", "memory": None}
    # Those of experts, of which this model has none.
    assert plan["slots"] == []
    assert plan["ctx"] == SLOTS * 256
    assert plan["reference"] == server.ready["reference"]
