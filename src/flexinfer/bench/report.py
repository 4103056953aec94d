"""The report as sections of text, tables and plots, which Markdown and HTML then render."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flexinfer.bench.cases import MMAP, Case
from flexinfer.bench.reasons import why
from flexinfer.bench.sections import Section, Table, share_of
from flexinfer.bench.stock import stock_lines
from flexinfer.bench.summary import (
    DISTURBED,
    Setting,
    Spread,
    Summary,
    case_of,
)
from flexinfer.bench.together_report import together_sections
from flexinfer.sizes import format_figure, format_size

OURS = "flex"
# Tokens of the answer that a person waits for, in the figure for short answers.
ANSWER = 100
# (what, strategy, over which, the paper's range): its evaluation of Llama2-7B to 70B.
TECHNIQUES = (
    ("synchronous direct reads", "sync", MMAP, "2.6x to 3x"),
    ("prefetching", "prefetch", "sync", "1.35x to 1.59x, up to 2.19x with more memory"),
    ("balanced locking", "algorithm1", "layers", "1.09x to 1.83x"),
    ("choice of tensors", "algorithm1", "attention-first", "up to 1.22x"),
    ("choice of tensors", "algorithm1", "ffn-first", "up to 1.15x"),
    ("exact fill, even in time", OURS, "algorithm1", "-"),
    ("all together", OURS, MMAP, "5.2x to 12.5x"),
)


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
    yield section("Rate against budget", _rates(summary, setting), halves, *stock, plot="rates")
    yield section("Against mmap", _ratios(summary, setting), plot="ratios")
    reasons = why(summary, setting, readahead)
    yield section(
        "What each technique earns", _techniques(summary, setting), _TECHNIQUE_NOTE, *reasons
    )
    yield section("Time per token", _split(summary, setting), _SPLIT_NOTE, plot="split")
    yield section(f"First token and {ANSWER} tokens", _waiting(summary, setting))
    yield section("Memory", _memory(summary, setting), _MEMORY_NOTE, plot="memory")
    yield section("Prediction", _prediction(summary, setting))
    if summary.windows(setting):
        table = _windows(summary, setting)
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
        return f"C was not measured, the bound is the drive's; B {_scaled(drive, 1e-9)} GB/s."
    return f"C {_ms(compute)} ms, B {_scaled(drive, 1e-9)} GB/s."


def _rates(summary: Summary, setting: Setting) -> Table:
    systems = summary.systems(setting)
    rows = []
    for budget in summary.budgets(setting):
        cases = [case_of(setting, each, budget) for each in systems]
        cells = [_mark(summary, case) + _show(summary.rate(case)) for case in cases]
        bound = summary.bound_rate(case_of(setting, OURS, budget))
        rows.append([share_of(summary, budget), *cells, _show(bound)])
    return Table(["budget", *systems, "bound"], rows)


def _ratios(summary: Summary, setting: Setting) -> Table:
    rows = []
    for budget in summary.budgets(setting):
        ours, mmap = (case_of(setting, each, budget) for each in (OURS, MMAP))
        rate, bound = summary.rate(mmap), summary.bound_rate(ours)
        known = rate and bound and not summary.is_disturbed(mmap)
        ceiling = format_figure(bound.median / rate.median) if known and rate and bound else "-"
        share = summary.share_of_bound(ours)
        rows.append(
            [share_of(summary, budget), _show(summary.over(ours, mmap)), ceiling, _show(share)]
        )
    return Table(["budget", f"{OURS} / mmap", "ceiling: bound / mmap", f"{OURS} / bound"], rows)


def _techniques(summary: Summary, setting: Setting) -> Table:
    rows = []
    for what, system, other, paper in TECHNIQUES:
        spreads = [
            summary.over(case_of(setting, system, budget), case_of(setting, other, budget))
            for budget in summary.budgets(setting)
        ]
        ratios = [spread.median for spread in spreads if spread is not None]
        if ratios:
            shown = f"{min(ratios):.2f}x to {max(ratios):.2f}x"
            rows.append([what, f"{system} / {other}", shown, paper])
    return Table(["technique", "compared", "here", "paper"], rows)


def _split(summary: Summary, setting: Setting) -> Table:
    drive = summary.drive_rate(setting)
    rows = []
    for case in _cases(summary, setting):
        step = summary.figure(case, lambda run: run["step_s"])
        parts = split(summary, case, drive.median if drive else None)
        shown = [f"{1000 * parts[name]:.0f}" if name in parts else "-" for name in PARTS]
        read = summary.figure(case, _per_token("drive_bytes"))
        nbytes = format_size(read.median) if read else "-"
        name = _mark(summary, case) + case.system
        rows.append([share_of(summary, case.budget), name, _ms(step), *shown, nbytes])
    return Table(["budget", "system", "step ms", *(f"{part} ms" for part in PARTS), "read"], rows)


PARTS = ("compute", "wait", "other", "read")


def split(summary: Summary, case: Case, drive: float | None) -> dict[str, float]:
    """Seconds of a median step by part; `read` runs beside the others."""
    step = summary.figure(case, lambda run: run["step_s"])
    read = summary.figure(case, _per_token("drive_bytes"))
    parts: dict[str, float] = {}
    if step is None:
        return parts
    if all("compute_s" in run["per_token"] for run in summary.case_runs(case)):
        for part in ("compute", "wait"):
            found = summary.figure(case, _per_token(f"{part}_s"))
            parts[part] = found.median if found else 0.0
        parts["other"] = max(step.median - sum(parts.values()), 0.0)
    if read is not None and drive:
        parts["read"] = read.median / drive
    return parts


def _per_token(name: str) -> Callable[[dict[str, Any]], float]:
    def value(run: dict[str, Any]) -> float:
        found: float = run["per_token"][name]
        return found

    return value


def _waiting(summary: Summary, setting: Setting) -> Table:
    rows = []
    for case in _cases(summary, setting):
        opened = summary.figure(case, lambda run: run["open_s"])
        first = summary.figure(case, lambda run: run["first_s"])
        answer = summary.figure(case, answer_seconds)
        rows.append(
            [
                share_of(summary, case.budget),
                _mark(summary, case) + case.system,
                *map(_show, (opened, first, answer)),
            ]
        )
    return Table(["budget", "system", "opening s", "first token s", f"{ANSWER} tokens s"], rows)


def _memory(summary: Summary, setting: Setting) -> Table:
    rows = []
    for case in _cases(summary, setting):
        runs = summary.case_runs(case)
        peak = max((run["peak"] for run in runs), default=0)
        kills = sum(run["oom_kills"] for run in runs)
        share = f"{peak / case.budget:.0%}"
        rows.append(
            [share_of(summary, case.budget), case.system, format_size(peak), share, str(kills)]
        )
    return Table(["budget", "system", "peak", "of the budget", "killed"], rows)


def _prediction(summary: Summary, setting: Setting) -> Table:
    rows = []
    for case in _cases(summary, setting):
        error = summary.prediction_error(case)
        predicted = summary.figure(case, lambda run: 1 / run.get("predicted_s", float("inf")))
        if error is not None and predicted is not None:
            rate = _show(summary.rate(case))
            shown = f"{error.median:+.0%}"
            name = [share_of(summary, case.budget), case.system]
            rows.append([*name, _show(predicted), rate, shown])
    return Table(["budget", "system", "predicted tokens/s", "measured", "error"], rows)


def _windows(summary: Summary, setting: Setting) -> Table:
    windows = summary.windows(setting)

    def swept(system: str, budget: int) -> bool:
        cases = (case_of(setting, system, budget, window) for window in windows)
        return any(summary.case_runs(case) for case in cases)

    budgets = summary.budgets(setting)
    systems = [
        system
        for system in summary.systems(setting)
        if system != MMAP and any(swept(system, budget) for budget in budgets)
    ]
    rows = [
        [
            share_of(summary, budget),
            "its own" if window is None else format_size(window),
            *(_show(summary.rate(case_of(setting, each, budget, window))) for each in systems),
        ]
        for budget in budgets
        if any(swept(system, budget) for system in systems)
        for window in (None, *windows)
    ]
    return Table(["budget", "window", *systems], rows)


def _cases(summary: Summary, setting: Setting) -> list[Case]:
    cases = [
        case_of(setting, system, budget)
        for budget in summary.budgets(setting)
        for system in summary.systems(setting)
    ]
    return [case for case in cases if summary.case_runs(case)]


def _mark(summary: Summary, case: Case) -> str:
    return "~" if summary.is_disturbed(case) else ""


def _show(spread: Spread | None) -> str:
    return "-" if spread is None else spread.shown()


def _scaled(spread: Spread, factor: float) -> str:
    median, least, most = spread.median * factor, spread.least * factor, spread.most * factor
    return Spread(median, least, most, spread.count).shown()


def _ms(spread: Spread | None) -> str:
    return "-" if spread is None else _scaled(spread, 1000)


def answer_seconds(run: dict[str, Any]) -> float:
    """From opened model to the last of `ANSWER` tokens, at the run's median step."""
    seconds: float = run["first_s"] + (ANSWER - 1) * run["step_s"]
    return seconds
