"""What is said before the first token."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.machines import FINE

from flexinfer.cli.announce import announce
from flexinfer.machine.machine import Machine

GIB = 1 << 30


def model(
    *,
    pinned: bool = True,
    budget: int = GIB,
    weight_memory: int | None = None,
    ctx: int = 4096,
    notes: tuple[str, ...] | None = None,
) -> Any:
    split = None if notes is None else SimpleNamespace(notes=notes)
    request = SimpleNamespace(budget=budget, weight_memory=weight_memory, ctx=4096, split=split)
    plan = SimpleNamespace(
        mode="the mode",
        computed="the kernels",
        rates=SimpleNamespace(reading=""),
        ctx=ctx,
        reasons=("a reason",),
        request=request,
    )
    return SimpleNamespace(plan=plan, pinned=pinned)


@pytest.fixture
def swapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "detect", lambda: replace(FINE, swap_total=GIB))


def test_swap_is_told_where_weights_are_not_kept_out_of_it(
    swapping: None, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(model(pinned=False), None, 7, False)
    assert "may be swapped out" in capsys.readouterr().err
    announce(model(), None, 7, False)
    assert capsys.readouterr().err == "the mode; the kernels\n"


def test_a_budget_that_was_capped_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    announce(model(), 2 * GIB, 7, True)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "only 1.00 GiB of memory are available: using that",
        "the mode; the kernels",
        "  seed 7",
        "  a reason",
    ]


def test_a_cap_on_weights_alone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    announce(model(weight_memory=1), None, 7, False)
    assert "not limited" in capsys.readouterr().err


def test_a_context_that_was_cut_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    announce(model(ctx=1024), None, 7, False)
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == (
        "the budget has no room for a context of 4096 tokens: it is 1024, give more --memory for "
        "more"
    )
    announce(model(), None, 7, False)
    assert "context" not in capsys.readouterr().err


def test_what_strangers_name_is_one_line_of_signs(capsys: pytest.CaptureFixture[str]) -> None:
    llm = model()
    llm.plan.reasons = ("\x1b[2Jblk\nffn",)
    announce(llm, None, 7, True)
    assert "  \\x1b[2Jblk ffn\n" in capsys.readouterr().err


def test_a_worker_without_a_part_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    announce(model(notes=("no worker answers at a:1", "worker b:2 has no layer")), None, 7, False)
    assert capsys.readouterr().err.splitlines() == [
        "the mode; the kernels",
        "no worker answers at a:1",
        "worker b:2 has no layer",
    ]
