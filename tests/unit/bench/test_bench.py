"""The benchmark without a model: cases, results, figures, pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_model import TinyModel

from flexinfer.bench.cases import COMPUTE, DRIVE, MMAP, SYSTEMS, Case, Grid, parse_window
from flexinfer.bench.reasons import why
from flexinfer.bench.rendering import markdown, page
from flexinfer.bench.report import PARTS, split
from flexinfer.bench.store import Store, file_name
from flexinfer.bench.summary import MARGIN, Setting, Spread, Summary, case_of
from flexinfer.errors import RequestError, SizeError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.planning.strategies import STRATEGIES

MIB = 1 << 20
NATIVE = Setting(None, 2)


def run(system: str, budget: int, step: float, number: int = 0, **more: Any) -> dict[str, Any]:
    """A run as a worker and its watcher would describe it."""
    figures: dict[str, Any] = {
        "round": number,
        "step_s": step,
        "first_s": 2.0,
        "open_s": 0.5,
        "wall_s": 9.0,
        "tokens": [5, 6, 7],
        "per_token": {"drive_bytes": 100.0 * MIB},
        "peak": budget // 2,
        "oom_kills": 0,
        "memory_curve": [(0.0, MIB), (1.0, budget // 2)],
        "outside_cpu": 0.02,
        "limited": True,
    }
    if system in STRATEGIES:
        figures["per_token"] |= {"compute_s": step / 2, "wait_s": step / 4}
        figures |= {
            "predicted_s": step * 0.8,
            "rows_bytes": 10 * MIB,
            "memory": {"overhead": 20 * MIB, "kv": 4 * MIB, "compute": 12 * MIB},
        }
    return {**Case(system, budget, None, 2).to_json(), **figures, **more}


def halves(number: int, compute: float, rate: float) -> list[dict[str, Any]]:
    drive = {**Case(DRIVE, 0, None, 2).to_json(), "round": number, "rate": rate, "wall_s": 1.0}
    return [run(COMPUTE, 0, compute, number), drive]


@pytest.fixture
def entry() -> dict[str, Any]:
    """Two rounds of three systems at one budget: 1000 MiB of weights in 500 MiB."""
    budget = 500 * MIB
    runs = [*halves(0, 0.2, 1000.0 * MIB), *halves(1, 0.2, 500.0 * MIB)]
    for number, slower in ((0, 1.0), (1, 2.0)):
        runs += [
            run(MMAP, budget, 6.0, number),
            run("sync", budget, 2.0 * slower, number),
            run("flex", budget, 0.75 * slower, number),
        ]
    return {"weights": 1000 * MIB, "prompt": 16, "tokens": 3, "ctx": 512, "runs": runs}


def test_a_round_begins_with_the_bound_and_every_second_one_runs_backwards() -> None:
    grid = Grid([1, 2], ["mmap", "flex"], [None, 500], [2], [None, 64])
    first, second = grid.round(0), grid.round(1)
    assert [case.system for case in first[:3]] == [COMPUTE, DRIVE, DRIVE]
    assert [case.drive for case in first[1:3]] == [None, 500]
    assert set(first) == set(second)
    assert len(first) == len(set(first)) == 3 + 2 * 2 * 3
    ahead, back = ([case.system for case in cases[3:6]] for cases in (first, second))
    assert ahead == ["mmap", "flex", "flex"]
    assert back == ["flex", "flex", "mmap"]


def test_every_strategy_can_be_compared() -> None:
    assert set(SYSTEMS) == {MMAP, *STRATEGIES}
    assert SYSTEMS[0] == MMAP
    assert SYSTEMS[-1] == "flex"


def test_a_window_is_bytes_or_layers_of_the_model(tiny_model: TinyModel) -> None:
    catalogue = read_catalogue(tiny_model("tiny-llama"))
    layer = sum(t.nbytes for t in catalogue.tensors if t.name.startswith("blk.0."))
    assert parse_window("2L", catalogue) == 2 * layer
    assert parse_window("3MiB", catalogue) == 3 * MIB
    with pytest.raises(SizeError):
        parse_window("wide", catalogue)
    with pytest.raises(RequestError, match="a window of 0L"):
        parse_window("0L", catalogue)


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


def test_parts_of_a_step(entry: dict[str, Any]) -> None:
    summary = Summary("m.gguf", entry)
    parts = split(summary, case_of(NATIVE, "sync", 500 * MIB), 100.0 * MIB)
    assert parts == pytest.approx({"compute": 1.5, "wait": 0.75, "other": 0.75, "read": 1.0})
    assert set(split(summary, case_of(NATIVE, MMAP, 500 * MIB), 1e9)) == {"read"}
    assert set(parts) == set(PARTS)


def test_shorter_answers_agree_with_longer_ones_and_others_do_not(entry: dict[str, Any]) -> None:
    entry["runs"][-1]["tokens"] = [5, 6]
    assert Summary("m.gguf", entry).tokens_agree
    entry["runs"][-1]["tokens"] = [5, 8]
    assert not Summary("m.gguf", entry).tokens_agree


def test_results_survive_and_failed_runs_are_tried_again(tmp_path: Path) -> None:
    path, case = tmp_path / "sub" / "machine.json", Case("flex", 100, None, 2)
    facts = {"weights": 9, "prompt": 16, "tokens": 4, "ctx": 512}
    runs = Store(path).model("m.gguf", **facts)
    runs.add(case, 0, {"failed": "no memory", "wall_s": 1.0})
    runs.add(case, 1, {"step_s": 1.0, "wall_s": 2.0, "window": 77})
    again = Store(path).model("m.gguf", **facts)
    assert len(again) == 2
    assert not again.has(case, 0)
    assert again.has(case, 1)
    assert again.seconds(case) == 2.0
    again.add(case, 0, {"step_s": 1.5, "wall_s": 3.0})
    assert len(again) == 2
    assert again.has(case, 0)
    assert [left.name for left in path.parent.iterdir()] == ["machine.json"]


def test_disturbed_runs_are_repeated_and_the_quietest_is_kept(tmp_path: Path) -> None:
    case = Case("flex", 100, None, 2)
    runs = Store(tmp_path / "machine.json").model("m.gguf")
    for others in (0.4, 0.1, 0.3):
        assert not runs.has(case, 0, 0.05)
        runs.add(case, 0, {"outside_cpu": others, "wall_s": others})
    assert runs.has(case, 0, 0.1)
    assert runs.seconds(case) == 0.1
    runs.add(case, 0, {"failed": "no memory", "wall_s": 1.0})
    assert runs.has(case, 0)


def test_results_with_other_settings_are_not_mixed(tmp_path: Path) -> None:
    store = Store(tmp_path / "machine.json")
    store.model("m.gguf", tokens=4)
    with pytest.raises(RequestError, match="tokens 4, not 16"):
        store.model("m.gguf", tokens=16)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99, "models": {}}', "\x00"])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"machine\.json"):
        Store(path)


def test_the_file_is_named_after_the_machine() -> None:
    machine = {"processor": "AMD EPYC(tm) 7", "cores": 2, "memory_total": 24 << 30}
    assert file_name(machine) == "amd-epyc-tm-7-2c-24g.json"


@pytest.fixture
def document(entry: dict[str, Any]) -> dict[str, Any]:
    machine = {
        "processor": "A & B <fast>",
        "cores": 2,
        "memory_total": 24 << 30,
        "swap_total": 0,
        "kernel": "6.1",
        "huge_pages": "madvise",
        "drive": {"kind": "vda", "readahead_kib": 128, "file_system": "ext4"},
        "flexinfer": "0.1",
        "python": "3.11",
    }
    entry["runs"].append({**run("layers", 500 * MIB, 1.0), "failed": "no memory"})
    return {"format": 1, "machine": machine, "models": {"m.gguf": entry}}


def test_the_report_says_how_where_and_what(document: dict[str, Any]) -> None:
    text = markdown(json.loads(json.dumps(document)))
    for part in (
        "readahead 128 KiB",
        "Outside this window",
        "all gave the same tokens",
        "layers at 500 MiB: no memory",
        "| 50% (500 MiB) | 6 (4-8) |",
        "synchronous direct reads | sync / mmap | 2.25x to 2.25x",
    ):
        assert part in text, part
    assert "+25%" in text


def test_different_tokens_cannot_be_overlooked(document: dict[str, Any]) -> None:
    document["models"]["m.gguf"]["runs"][4]["tokens"] = [1]
    assert "NOT the same" in markdown(document)


def test_disturbed_figures_are_marked(document: dict[str, Any]) -> None:
    for measured in document["models"]["m.gguf"]["runs"]:
        if measured["system"] == "flex":
            measured["outside_cpu"] = 0.6
    text = markdown(document)
    assert "2 of the runs were disturbed" in text
    assert "| ~1 (0.667-1.33) |" in text
    assert "flex / mmap | 4" not in text


def test_the_page_needs_no_other_file(document: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    text = page(document)
    assert text.count("<svg") == 4
    assert "A &amp; B &lt;fast&gt;" in text
    assert "<script" not in text
    assert "src=" not in text
    assert text == page(document)


def test_gains_are_explained_by_the_counters_of_the_runs(entry: dict[str, Any]) -> None:
    summary = Summary("m.gguf", entry)
    direct, prefetch = "Direct reads: mmap with 128 KiB of readahead reads 100 MiB", "Prefetching"
    explained = why(summary, NATIVE, 128)
    assert [reason.startswith(direct) for reason in explained] == [True]
    budget = 500 * MIB
    for number in (0, 1):
        entry["runs"] += [
            run("prefetch", budget, 1.5, number),
            run("layers", budget, 1.4 + number, number),
            run("algorithm1", budget, 1.2 + number, number, per_token={"drive_bytes": 77.0 * MIB}),
        ]
    explained = why(Summary("m.gguf", entry), NATIVE, None)
    starts = ["Direct reads: mmap reads", prefetch, "Balanced locking", "Exact fill"]
    assert list(map(str.startswith, explained, starts)) == [True] * 4
    # 100 MiB at 750 MiB/s beside 200 ms of computing.
    assert "computing (200 ms) and reading (133 ms) behind the longer" in explained[1]
    assert "at most 1.67x" in explained[1]
    assert "wait 0 ms a token and those with whole layers locked 475 ms" in explained[2]
    assert "reads 100 MiB a token" in explained[3]
    assert "reads 77.0 MiB" in explained[3]
