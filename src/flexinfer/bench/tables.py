"""The tables of one setting: rates, ratios, times, memory, what was foretold."""

from __future__ import annotations

from flexinfer.bench.cases import MMAP, Case
from flexinfer.bench.parts import ANSWER, PARTS, answer_seconds, per_token, split
from flexinfer.bench.sections import Table, share_of
from flexinfer.bench.spread import Spread
from flexinfer.bench.summary import Setting, Summary, case_of
from flexinfer.sizes import format_figure, format_size

OURS = "flex"
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


def rates(summary: Summary, setting: Setting) -> Table:
    """Tokens/s of each system by budget, and the bound."""
    systems = summary.systems(setting)
    rows = []
    for budget in summary.budgets(setting):
        cases = [case_of(setting, each, budget) for each in systems]
        cells = [_mark(summary, case) + _show(summary.rate(case)) for case in cases]
        bound = summary.bound_rate(case_of(setting, OURS, budget))
        rows.append([share_of(summary, budget), *cells, _show(bound)])
    return Table(["budget", *systems, "bound"], rows)


def ratios(summary: Summary, setting: Setting) -> Table:
    """Ours over mmap and over the bound, by budget."""
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


def techniques(summary: Summary, setting: Setting) -> Table:
    """What each technique earns over the budgets, beside the range that the paper gives."""
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


def parts_of_steps(summary: Summary, setting: Setting) -> Table:
    """Where the time of a step went, by budget and system."""
    drive = summary.drive_rate(setting)
    rows = []
    for case in _cases(summary, setting):
        step = summary.figure(case, lambda run: run["step_s"])
        parts = split(summary, case, drive.median if drive else None)
        shown = [f"{1000 * parts[name]:.0f}" if name in parts else "-" for name in PARTS]
        read = summary.figure(case, per_token("drive_bytes"))
        nbytes = format_size(read.median) if read else "-"
        name = _mark(summary, case) + case.system
        rows.append([share_of(summary, case.budget), name, _ms(step), *shown, nbytes])
    return Table(["budget", "system", "step ms", *(f"{part} ms" for part in PARTS), "read"], rows)


def waiting(summary: Summary, setting: Setting) -> Table:
    """Seconds until the model is open, the first token is there, and a short answer."""
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


def memory(summary: Summary, setting: Setting) -> Table:
    """Most memory sampled, by budget and system."""
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


def prediction(summary: Summary, setting: Setting) -> Table:
    """Tokens/s that the plan foretold beside those measured."""
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


def windows(summary: Summary, setting: Setting) -> Table:
    """Tokens/s of each system by budget with one window for all."""
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


def _ms(spread: Spread | None) -> str:
    return "-" if spread is None else spread.scaled(1000).shown()
