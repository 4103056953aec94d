"""The benchmark with tiny models: workers, groups, the command."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.tiny_model import TinyModel

from flexinfer.bench import running
from flexinfer.bench.cases import COMPUTE, DRIVE, MMAP, STOCK, Case
from flexinfer.bench.running import Job, drop_cache, group_trouble, run_case
from flexinfer.bench.sides import Sides
from flexinfer.bench.together import Setup, measure, measure_plain_server
from flexinfer.cli.bench import command
from flexinfer.errors import EngineError, UnsupportedError
from flexinfer.planning.kernels import Kernels
from flexinfer.serve.library import LIBRARY

MIB = 1 << 20


def _bench(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def _job(path: Path) -> Job:
    return Job([str(path)], prompt=4, tokens=4, ctx=64)


def test_plain_and_streamed_runs_give_the_same_tokens(tiny_model: TinyModel) -> None:
    job = _job(tiny_model("tiny-wide"))
    plain = run_case(Case(COMPUTE, 0, None, 1), job)
    ours = run_case(Case("sync", 120 * MIB, None, 1), job, grouped=False)
    assert "failed" not in plain | ours, (plain, ours)
    assert len(ours["tokens"]) == 4
    assert ours["tokens"] == plain["tokens"]
    assert len(ours["steps_s"]) == 3
    assert ours["per_token"]["read_bytes"] > 0
    assert "predicted_s" not in plain
    assert not ours["limited"]


def test_packed_runs_give_the_tokens_of_stock_llama_cpp(tiny_model: TinyModel) -> None:
    job = replace(_job(tiny_model("tiny-wide")), kernels=Kernels.PACKED)
    stock, compute = (run_case(Case(each, 0, None, 1), job) for each in (STOCK, COMPUTE))
    ours = run_case(Case("sync", 120 * MIB, None, 1), job, grouped=False)
    assert {run["kernels"] for run in (stock, compute, ours)} == {"packed"}
    assert ours["tokens"] == stock["tokens"] == compute["tokens"]
    assert len(ours["tokens"]) == 4


def test_stock_llama_cpp_in_less_memory_is_told_as_it_was_seen(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("tiny-wide", "f16")
    if (trouble := group_trouble(str(path), throttled=False)) is not None:
        pytest.skip(trouble)
    monkeypatch.setattr(running, "_TRIED_SECONDS", 0.2)
    job = replace(_job(path), seconds=0.1)
    result = run_case(Case(STOCK, 400 * MIB, None, 1), job)
    assert result["seen"] == "no answer within 0 s"
    monkeypatch.setattr(running, "_TRIED_SECONDS", 60.0)
    assert run_case(Case(STOCK, 800 * MIB, None, 1), job)["seen"].endswith("tokens/s")
    assert "killed" in run_case(Case(STOCK, 20 * MIB, None, 1), job)["seen"]


def test_a_slow_run_ends_early_with_two_steps(tiny_model: TinyModel) -> None:
    job = Job([str(tiny_model("tiny-llama"))], prompt=4, tokens=30, seconds=0.0, ctx=64)
    assert len(run_case(Case(COMPUTE, 0, None, 1), job)["steps_s"]) == 2


def test_the_drive_is_read_once_whole(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-wide")
    result = run_case(Case(DRIVE, 0, None, 1), _job(path))
    assert result["read_bytes"] == path.stat().st_size
    assert result["rate"] > 0


def test_a_budget_that_is_too_small_is_one_sentence(tiny_model: TinyModel) -> None:
    case = Case("flex", 1 * MIB, None, 1)
    result = run_case(case, _job(tiny_model("tiny-llama")), grouped=False)
    assert "smallest that would do" in result["failed"]
    assert "\n" not in result["failed"]


def test_mmap_without_a_group_is_refused(tiny_model: TinyModel) -> None:
    with pytest.raises(UnsupportedError, match="control group"):
        run_case(Case(MMAP, 64 * MIB, None, 1), _job(tiny_model("tiny-llama")), grouped=False)


def test_mmap_in_a_group_of_its_budget(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-llama")
    if (trouble := group_trouble(str(path), throttled=False)) is not None:
        pytest.skip(trouble)
    result = run_case(Case(MMAP, 100 * MIB, None, 1), _job(path))
    assert result["limited"]
    assert 0 < result["peak"] <= 100 * MIB
    assert result["memory_curve"]


def test_the_cache_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(8 * MIB))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        file.read()
    assert drop_cache([str(path)]) == 0.0


def test_the_curve_is_thinned_and_keeps_its_peak() -> None:
    curve = [(float(t), 900 if t == 777 else t % 10) for t in range(1000)]
    thin = running._thin(curve)
    assert len(thin) <= 120
    assert max(usage for _, usage in thin) == 900


def _results(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    models: dict[str, Any] = json.loads(path.read_text())["models"]
    return models


def test_the_command_measures_reports_and_goes_on(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = str(tiny_model("tiny-wide"))
    arguments = [model, "--budgets", "120MiB", "--strategy", "flex", "-n", "3", "--ctx", "64"]
    arguments += ["--prompt", "4", "--cores", "1", "--out", str(tmp_path)]
    first = _bench(*arguments, "--rounds", "1")
    assert first.exit_code == 0, first.output
    assert first.stdout.split()[1].endswith(".md")
    runs = _results(tmp_path)["tiny-wide-q4_0.gguf"]["runs"]
    assert [run["system"] for run in runs] == [COMPUTE, STOCK, DRIVE, "flex"]
    assert [run["kernels"] for run in runs] == ["plain", "packed", "plain", "plain"]
    assert _bench(*arguments, "--rounds", "2").exit_code == 0
    later = _results(tmp_path)["tiny-wide-q4_0.gguf"]["runs"]
    assert later[:4] == runs
    assert [run["round"] for run in later] == [0, 0, 0, 0, 1, 1, 1, 1]
    (report,) = tmp_path.glob("*.md")
    assert "gave the same tokens" in report.read_text()
    refused = _bench(*arguments, "--repack")
    assert "kernels 'plain', not 'packed'" in str(refused.exception)


def test_ctrl_c_keeps_what_is_there(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_model("tiny-llama"))
    calls: list[Case] = []

    def stop_at_the_third(case: Case, job: Job, *, grouped: bool = True) -> dict[str, Any]:
        calls.append(case)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_case(case, job, grouped=grouped)

    monkeypatch.setattr(running, "run_case", stop_at_the_third)
    result = _bench(model, "--budgets", "100MiB", "--out", str(tmp_path), "-n", "3")
    assert result.exit_code == 1
    assert "2 runs are kept" in result.stderr
    assert len(_results(tmp_path)["tiny-llama-q4_0.gguf"]["runs"]) == 2


def test_a_benchmark_without_a_figure_is_a_failure(tiny_model: TinyModel, tmp_path: Path) -> None:
    words = [str(tiny_model("tiny-llama")), "--strategy", "flex", "-n", "3", "--ctx", "64"]
    words += ["--rounds", "1", "--out", str(tmp_path)]
    for _ in range(2):
        failed = _bench(*words, "--budgets", "1MiB")
        assert isinstance(failed.exception, EngineError)
        assert "none of 1 runs gave a figure; the last one: " in str(failed.exception)
        assert failed.stdout.split()[1].endswith(".md")
    assert _bench(*words, "--budgets", "1MiB,100MiB").exit_code == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--strategy", "magic"),
        ("--budgets", "x%"),
        ("--budgets", "nan%"),
        ("--budgets", "-5%"),
        ("--budgets", "much"),
        ("--budgets", ","),
        ("--drive", "fast"),
        ("--window", "wide"),
        ("--cores", "0"),
        ("--cores", "\u00b2"),
        ("--slots", "1,\u0663"),
    ],
)
def test_wrong_usage(tiny_model: TinyModel, tmp_path: Path, option: str, value: str) -> None:
    model = str(tiny_model("tiny-llama"))
    assert _bench(model, option, value, "--out", str(tmp_path)).exit_code == 2


def test_a_report_of_nothing_is_one_sentence(tiny_model: TinyModel, tmp_path: Path) -> None:
    result = _bench(str(tiny_model("tiny-llama")), "--report-only", "--out", str(tmp_path))
    assert "has no runs to report" in str(result.exception)


def test_streams_together_are_counted_by_the_engine(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-wide"))
    if not LIBRARY.is_file():
        pytest.skip("llama.cpp's server was not built: flexinfer serve --build")
    if (trouble := group_trouble(path, throttled=False)) is not None:
        pytest.skip(trouble)
    sides = Sides(Kernels.PLAIN, Kernels.PLAIN)
    setup = Setup([path], 160 * MIB, None, 2, 512, sides, 2, 6, 30.0)
    with setup.plain("f16") as plain:
        assert len(plain.ask("rows", 3)["times"]) == 5
        found = measure(setup, plain, 3, "f16")
    assert found["passes"] >= 6
    assert found["tok_s"] > 0
    assert found["bound_tok_s"] > 0
    assert found["predicted_tok_s"] > 0
    beside = measure_plain_server(setup, 3, "f16", found["ubatch"])
    assert beside["passes"] >= 6, beside
    assert beside["tok_s"] > 0


def test_llama_cpp_s_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    if not LIBRARY.is_file():
        pytest.skip("llama.cpp's server was not built: flexinfer serve --build")
    if (trouble := group_trouble(str(broken), throttled=False)) is not None:
        pytest.skip(trouble)
    sides = Sides(Kernels.PLAIN, Kernels.PLAIN)
    setup = Setup([str(broken)], 160 * MIB, None, 2, 64, sides, 0, 1, 1.0)
    assert "the server ended with" in measure_plain_server(setup, 2, "f16", 32)["failed"]
