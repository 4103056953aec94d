"""From runs to figures: the bound of a round, ratios within it, disturbed runs left out."""

from __future__ import annotations

from typing import Any

import pytest
from support.bench_runs import MIB, NATIVE, run

from flexinfer.bench.cases import MMAP, STOCK
from flexinfer.bench.spread import Spread
from flexinfer.bench.summary import MARGIN, Summary, case_of


def test_the_bound_is_of_the_round_and_never_from_a_plan(entry: dict[str, Any]) -> None:
    summary = Summary("m.gguf", entry)
    case = case_of(NATIVE, "flex", 500 * MIB)
    streamed = 1000 * MIB - 10 * MIB - (500 * MIB - 36 * MIB - MARGIN)
    assert summary.smallest_streamed(case) == streamed
    first, second = summary.bound(case, 0), summary.bound(case, 1)
    assert first is not None
    assert second is not None
    assert first.step_s == pytest.approx(streamed / (1000 * MIB))
    assert second.step_s == pytest.approx(2 * first.step_s)
    # The drive was half as fast in the second round, and so were we: the share stays.
    share = summary.share_of_bound(case)
    assert share is not None
    assert share.least == pytest.approx(share.most) == pytest.approx(first.step_s / 0.75)


def test_the_bound_is_computing_where_that_takes_longer(entry: dict[str, Any]) -> None:
    entry["runs"][0]["step_s"] = 5.0
    bound = Summary("m.gguf", entry).bound(case_of(NATIVE, "flex", 500 * MIB), 0)
    assert bound is not None
    assert bound.step_s == 5.0


def test_ratios_are_taken_within_a_round(entry: dict[str, Any]) -> None:
    summary = Summary("m.gguf", entry)
    flex, mmap = (case_of(NATIVE, system, 500 * MIB) for system in ("flex", MMAP))
    assert summary.over(flex, mmap) == Spread(6.0, 4.0, 8.0, 2)
    assert summary.over(flex, case_of(NATIVE, "layers", 500 * MIB)) is None


def test_no_ratio_comes_from_a_disturbed_run(entry: dict[str, Any]) -> None:
    flex, mmap = (case_of(NATIVE, system, 500 * MIB) for system in ("flex", MMAP))
    ours = [run for run in entry["runs"] if run["system"] == "flex"]
    ours[1]["outside_cpu"] = 0.5
    summary = Summary("m.gguf", entry)
    assert summary.over(flex, mmap) == Spread(8.0, 8.0, 8.0, 1)
    assert not summary.is_disturbed(flex)
    ours[0]["outside_cpu"] = 0.5
    assert summary.is_disturbed(flex)
    assert summary.over(flex, mmap) is None
    assert summary.share_of_bound(flex) is None
    assert summary.prediction_error(flex) is None
    assert summary.rate(flex) == Spread.of([1 / 0.75, 1 / 1.5])
    assert summary.disturbed == 2


def test_a_disturbed_half_makes_no_bound(entry: dict[str, Any]) -> None:
    entry["runs"] = [run for run in entry["runs"] if run["round"] == 0]
    entry["runs"][1]["outside_cpu"] = 0.4
    assert Summary("m.gguf", entry).bound(case_of(NATIVE, "flex", 500 * MIB), 0) is None


def test_shorter_answers_agree_with_longer_ones_and_others_do_not(entry: dict[str, Any]) -> None:
    entry["runs"][-1]["tokens"] = [5, 6]
    assert Summary("m.gguf", entry).tokens_agree
    entry["runs"][-1]["tokens"] = [5, 8]
    assert not Summary("m.gguf", entry).tokens_agree


def test_tokens_are_compared_within_one_set_of_kernels(entry: dict[str, Any]) -> None:
    entry["runs"].append(run(STOCK, 0, 0.1, tokens=[5, 8], kernels="packed"))
    assert Summary("m.gguf", entry).tokens_agree
    entry["runs"].append(run("flex", 500 * MIB, 0.1, 3, tokens=[5, 9], kernels="packed"))
    assert not Summary("m.gguf", entry).tokens_agree


def test_stock_llama_cpp_is_none_of_what_is_compared(entry: dict[str, Any]) -> None:
    entry["runs"].append(run(STOCK, 0, 0.1))
    summary = Summary("m.gguf", entry)
    assert summary.budgets(NATIVE) == [500 * MIB]
    assert STOCK not in summary.systems(NATIVE)
