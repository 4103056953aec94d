"""The report as sections of text, tables and plots, which Markdown and HTML then render."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flexinfer.bench import tables
from flexinfer.bench.parts import ANSWER
from flexinfer.bench.reasons import why
from flexinfer.bench.sections import Section, Table
from flexinfer.bench.stock import stock_lines
from flexinfer.bench.summary import DISTURBED, Setting, Summary
from flexinfer.bench.tables import OURS
from flexinfer.bench.together_report import together_sections
from flexinfer.sizes import format_size


def sections(document: dict[str, Any]) -> Iterator[Section]:
    """The whole report of one results file."""
    yield Section("Benchmark", _machine(document["machine"]), level=1)
    yield Section("How it was measured", _method(), level=2)
    readahead = document["machine"]["drive"].get("readahead_kib")
    for name, entry in document["models"].items():
        summary = Summary(name, entry)
        yield Section(summary.name, _conditions(summary), level=2)
        for setting in summary.settings:
            yield from _setting(summary, setting, readahead)
        yield from together_sections(summary)


def _machine(machine: dict[str, Any]) -> list[str]:
    drive = machine["drive"]
    readahead = drive.get("readahead_kib")
    return [
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{format_size(machine['memory_total'])} of memory, "
        f"{format_size(machine['swap_total'])} of swap, Linux {machine['kernel']}, "
        f"huge pages: {machine['huge_pages']}.",
        f"Drive {drive['kind']}, {drive.get('file_system', 'unknown')}, "
        + (f"readahead {readahead} KiB (it serves mmap; " if readahead is not None else "(")
        + "ours reads past the page cache).",
        f"flexinfer {machine['flexinfer']}, Python {machine['python']}.",
    ]


def _method() -> list[str]:
    return [
        "Each run is a process of its own in a control group of the budget's size without swap; "
        "the model's pages are dropped from the page cache before it. Temperature 0.",
        "Tokens/s is one over the median step after the first token. Outside this window: "
        "starting Python, opening the model, the prompt with the first token, which is stated by "
        "itself. A run ends early when its time is over, with two steps at least.",
        "The bound is 1 / max(C, S* / B): C is the median step of llama.cpp with the same kernels "
        "and all weights in memory, B our reader with nothing computed, S* the weights a token "
        "uses less what the budget leaves beside process, KV cache, compute buffers and 64 MiB. It "
        "is never taken from our own plan.",
        "Figures are medians over rounds with (least-most); ratios are taken within a round first.",
    ]


def _conditions(summary: Summary) -> list[str]:
    facts = summary.facts
    agree = "the same" if summary.tokens_agree else "NOT the same"
    limited = all(run.get("limited", True) for run in summary.compared)
    lines = [
        f"{format_size(summary.weights)} of weights, {facts['prompt']} prompt tokens, "
        f"up to {facts['tokens']} generated, context {facts['ctx']}. "
        f"{len(summary.runs)} runs; all with the same kernels gave {agree} tokens.",
        f"Compared with {summary.kernels.value} kernels, the bits of {summary.kernels.reference}, "
        "whose C it is. `mmap` is llama.cpp --no-repack with the model mapped into memory.",
    ]
    if summary.disturbed:
        lines.append(
            f"{summary.disturbed} of the runs were disturbed: others used more than "
            f"{DISTURBED:.0%} of the processors. Figures that have no other run behind them are "
            "marked with ~ and say little; no ratio, bound or prediction error is taken from them. "
            f"Repeat them on a quiet machine with --disturbance {DISTURBED}."
        )
    if not limited:
        lines.append("Some budgets were kept by our own accounting alone, without a group.")
    reasons = {
        f"{run['system']} at {format_size(run['budget'])}: {run['failed']}"
        for run in summary.failed
    }
    return lines + [f"Did not run: {reason}." for reason in sorted(reasons)]


def _setting(summary: Summary, setting: Setting, readahead: int | None) -> Iterator[Section]:
    def section(title: str, table: Table, *text: str, plot: str | None = None) -> Section:
        title = f"{title}, {setting.label}"
        return Section(title, text, table, plot=plot, setting=setting, summary=summary)

    halves = _halves(summary, setting)
    stock = stock_lines(summary, setting)
    yield section(
        "Rate against budget", tables.rates(summary, setting), halves, *stock, plot="rates"
    )
    yield section("Against mmap", tables.ratios(summary, setting), plot="ratios")
    reasons = why(summary, setting, readahead)
    yield section(
        "What each technique earns", tables.techniques(summary, setting), _TECHNIQUE_NOTE, *reasons
    )
    yield section(
        "Time per token", tables.parts_of_steps(summary, setting), _SPLIT_NOTE, plot="split"
    )
    yield section(f"First token and {ANSWER} tokens", tables.waiting(summary, setting))
    yield section("Memory", tables.memory(summary, setting), _MEMORY_NOTE, plot="memory")
    yield section("Prediction", tables.prediction(summary, setting))
    if summary.windows(setting):
        table = tables.windows(summary, setting)
        yield section("The same window for all", table, _WINDOW_NOTE, plot="windows")


_TECHNIQUE_NOTE = (
    "Least and most of the ratios over the budgets. The paper's ranges are its own, from another "
    "machine, and stand beside ours for comparison only."
)
_SPLIT_NOTE = (
    "Reading runs beside computing: `read` is the bytes read per token at the drive's rate, "
    "`compute` and `wait` are what the computing thread did, `other` is the rest of the step. "
    "For mmap, reading happens inside computing and cannot be told apart."
)
_WINDOW_NOTE = (
    f"Its own window: three layers for the paper's strategies; `{OURS}` begins with what the drive "
    "reads in 35 ms, 64 MiB at most, and learns from what its passes lose."
)
_MEMORY_NOTE = (
    "Anonymous and kernel bytes of the group, sampled from outside ten times a second; page cache "
    "is not in it."
)


def _halves(summary: Summary, setting: Setting) -> str:
    compute, drive = summary.compute_step(setting), summary.drive_rate(setting)
    if drive is None or (compute is None and not summary.without_compute(setting.cores)):
        return "The bound was not measured, or only on a busy machine."
    if compute is None:
        return f"C was not measured, the bound is the drive's; B {drive.scaled(1e-9).shown()} GB/s."
    return f"C {compute.scaled(1000).shown()} ms, B {drive.scaled(1e-9).shown()} GB/s."
