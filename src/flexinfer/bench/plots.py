"""The report's plots as SVG text. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from flexinfer.bench.cases import MMAP, SYSTEMS
from flexinfer.bench.parts import PARTS, split
from flexinfer.bench.summary import Setting, Summary, case_of
from flexinfer.bench.tables import OURS
from flexinfer.bench.together_report import points
from flexinfer.errors import UnsupportedError
from flexinfer.sizes import format_size

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_PALETTE = ("#555555", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#f0e442", "#0072b2", "#d55e00")
COLOURS = dict(zip(SYSTEMS, _PALETTE, strict=True))
_PART_COLOURS = {"compute": "#0072b2", "wait": "#d55e00", "other": "#bbbbbb"}
_GIB = 1 << 30


def draw(name: str, summary: Summary, setting: Setting, *, format: str = "svg") -> bytes:
    """One plot of `PLOTS`, as a picture file's bytes.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "plots need matplotlib; install it with: pip install 'flexinfer[plot]'"
        ) from error
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    PLOTS[name](figure.subplots(), summary, setting)
    picture = io.BytesIO()
    # Without a salt and a date the same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "flexinfer", "svg.fonttype": "none"}):
        metadata = {"Date": None} if format == "svg" else None
        figure.savefig(picture, format=format, dpi=130, metadata=metadata)
    return picture.getvalue()


def _rates(axes: Any, summary: Summary, setting: Setting) -> None:
    budgets = summary.budgets(setting)
    for system in summary.systems(setting):
        points = [(b, summary.rate(case_of(setting, system, b))) for b in budgets]
        known = [(b / _GIB, rate) for b, rate in points if rate is not None]
        if not known:
            continue
        middle = [rate.median for _, rate in known]
        below = [rate.median - rate.least for _, rate in known]
        above = [rate.most - rate.median for _, rate in known]
        axes.errorbar(
            [b for b, _ in known],
            middle,
            yerr=(below, above),
            label=system,
            color=COLOURS[system],
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=2.5 if system == OURS else 1.3,
        )
    bounds = [(b, summary.bound_rate(case_of(setting, OURS, b))) for b in budgets]
    drawn = [(b / _GIB, bound.median) for b, bound in bounds if bound is not None]
    if drawn:
        axes.plot(*zip(*drawn, strict=True), "k--", linewidth=1, label="bound")
    _finish(axes, f"{summary.name}, {setting.label}", "budget, GiB", "tokens/s")


def _ratios(axes: Any, summary: Summary, setting: Setting) -> None:
    reached, ceiling = [], []
    for budget in summary.budgets(setting):
        ours, mmap = (case_of(setting, each, budget) for each in (OURS, MMAP))
        ratio, rate, bound = summary.over(ours, mmap), summary.rate(mmap), summary.bound_rate(ours)
        if ratio is not None:
            reached.append((budget / _GIB, ratio.median))
        if rate is not None and bound is not None and not summary.is_disturbed(mmap):
            ceiling.append((budget / _GIB, bound.median / rate.median))
    if reached:
        axes.plot(*zip(*reached, strict=True), "o-", color=COLOURS[OURS], label=f"{OURS} / mmap")
    if ceiling:
        axes.plot(*zip(*ceiling, strict=True), "k--", linewidth=1, label="bound / mmap")
    _finish(axes, f"Times mmap, {setting.label}", "budget, GiB", "ratio")


def _split(axes: Any, summary: Summary, setting: Setting) -> None:
    drive = summary.drive_rate(setting)
    rate = drive.median if drive else None
    systems = [system for system in summary.systems(setting) if system != MMAP]
    labels, at = [], 0
    for budget in summary.budgets(setting):
        for system in systems:
            parts = split(summary, case_of(setting, system, budget), rate)
            if not parts:
                continue
            bottom = 0.0
            for part in PARTS[:3]:
                height = parts.get(part, 0.0)
                label = part if not at else None
                axes.bar(at, height, bottom=bottom, color=_PART_COLOURS[part], label=label)
                bottom += height
            if "read" in parts:
                mark = "read, beside it" if not at else None
                axes.plot([at - 0.4, at + 0.4], [parts["read"]] * 2, "k-", linewidth=2, label=mark)
            labels.append(f"{system} {budget / _GIB:.2g}")
            at += 1
    axes.set_xticks(range(at), labels, rotation=90, fontsize=6)
    _finish(axes, f"Time per token, {setting.label}", "system and budget in GiB", "seconds")


def _memory(axes: Any, summary: Summary, setting: Setting) -> None:
    for index, budget in enumerate(summary.budgets(setting)):
        runs = summary.case_runs(case_of(setting, OURS, budget))
        colour = _PALETTE[index % len(_PALETTE)]
        if runs and runs[-1]["memory_curve"]:
            curve = runs[-1]["memory_curve"]
            label = f"{OURS}, {format_size(budget)}"
            axes.plot(
                [t for t, _ in curve], [b / _GIB for _, b in curve], color=colour, label=label
            )
            axes.axhline(budget / _GIB, color=colour, linewidth=0.8, linestyle=":")
    _finish(axes, "Memory over time; dotted: the budget", "seconds", "GiB")


def _windows(axes: Any, summary: Summary, setting: Setting) -> None:
    windows = summary.windows(setting)
    budgets = summary.budgets(setting)
    middle = budgets[len(budgets) // 2]
    for system in summary.systems(setting):
        points = [(w, summary.rate(case_of(setting, system, middle, w))) for w in windows]
        known = [(w / (1 << 20), rate.median) for w, rate in points if rate is not None]
        if system != MMAP and known:
            colour = COLOURS[system]
            axes.plot(*zip(*known, strict=True), "o-", color=colour, label=system)
    _finish(axes, f"Window at {format_size(middle)}, {setting.label}", "window, MiB", "tokens/s")


def _together(axes: Any, summary: Summary, setting: Setting) -> None:
    found = points(summary, setting)
    kinds = sorted({(each.budget, each.kv) for each in found})
    for index, (budget, kv) in enumerate(kinds):
        colour = _PALETTE[(index + 1) % len(_PALETTE)]
        here = [each for each in found if (each.budget, each.kv) == (budget, kv)]
        slots = [each.slots for each in here]
        label = f"{format_size(budget)}, cache {kv}"
        axes.plot(slots, [each.rate.median for each in here], "o-", color=colour, label=label)
        bound = "bound" if not index else None
        axes.plot(slots, [each.bound.median for each in here], "k--", linewidth=1, label=bound)
        plain = [(each.slots, each.plain.median) for each in here if each.plain is not None]
        if plain:
            label = f"llama-server, {format_size(budget)}"
            axes.plot(*zip(*plain, strict=True), "s:", color=colour, label=label)
    _finish(axes, f"{summary.name}, streams together, {setting.label}", "slots", "tokens/s")


def _finish(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25, linewidth=0.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


PLOTS: Mapping[str, Callable[[Any, Summary, Setting], None]] = {
    "rates": _rates,
    "ratios": _ratios,
    "split": _split,
    "memory": _memory,
    "windows": _windows,
    "together": _together,
}
