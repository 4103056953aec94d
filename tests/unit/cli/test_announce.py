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


def model(*, pinned: bool = True, budget: int = GIB, weight_memory: int | None = None) -> Any:
    request = SimpleNamespace(budget=budget, weight_memory=weight_memory)
    plan = SimpleNamespace(
        mode="the mode", computed="the kernels", reasons=("a reason",), request=request
    )
    return SimpleNamespace(plan=plan, pinned=pinned)


@pytest.fixture
def swapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "detect", lambda: replace(FINE, swap_total=GIB))


def test_swap_is_told_where_weights_are_not_kept_out_of_it(
    swapping: None, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(model(pinned=False), None, False)
    assert "may be swapped out" in capsys.readouterr().err
    announce(model(), None, False)
    assert capsys.readouterr().err == "the mode; the kernels\n"


def test_a_budget_that_was_capped_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    announce(model(), 2 * GIB, True)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "only 1.00 GiB of memory are available: using that",
        "the mode; the kernels",
        "  a reason",
    ]


def test_a_cap_on_weights_alone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    announce(model(weight_memory=1), None, False)
    assert "not limited" in capsys.readouterr().err
