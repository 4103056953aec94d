"""A server in a group of just its budget, to be abused, and what it must go on to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flexinfer.bench.limits import limited
from support.drawn_requests import KEY
from support.served import Served, serving

_BUDGET = 160 << 20
_ASKED: dict[str, Any] = {
    "prompt": "ROMEO:",
    "n_predict": 8,
    "temperature": 0,
    "ignore_eos": True,
    "cache_prompt": False,
}


@contextmanager
def abused(model: object, *options: object, ctx: int = 128) -> Iterator[Served]:
    """A server behind `KEY` that is looked after: it was never killed, nor above its budget."""
    with limited(memory=_BUDGET) as group, group.watch() as seen:
        sizes = ("--slots", 4, "--ctx", ctx, "--memory", f"{_BUDGET}B")
        with serving(model, *sizes, "--api-key", KEY, *options, group=group) as served:
            served.key = KEY
            yield served
            assert group.oom_kills == 0
    assert seen.peak <= _BUDGET, f"{seen.peak >> 10} of {_BUDGET >> 10} KiB"


def plain(served: Served) -> None:
    """What a client gets that asks for something sound."""
    served.post("/engine/memory", {"memory": f"{_BUDGET}B"})
    status, plan = served.get("/engine/plan")
    assert status == 200, plan
    if plan["server"]["answers"] == "vectors":
        status, answer = served.post("/embedding", {"content": "ROMEO:"})
        assert status == 200, answer
        return
    answer = served.complete(**_ASKED)
    assert answer["tokens_predicted"] == 8, answer
