"""What a benchmark says while it measures: what runs, what came out, how long it takes yet."""

from __future__ import annotations

from typing import Any

from flexinfer.bench.cases import Case
from flexinfer.sizes import format_figure, format_size
from flexinfer.text import one_line


def minutes(seconds: float) -> str:
    """How long it will take yet."""
    return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"


def label(case: Case) -> str:
    """What is measured."""
    parts = [case.system]
    if case.budget:
        parts.append(format_size(case.budget))
    if case.window:
        parts.append(f"window {format_size(case.window)}")
    if case.drive:
        parts.append(f"at {case.drive / 1e6:.0f} MB/s")
    return " ".join([*parts, f"on {case.cores} cores"])


def outcome(result: dict[str, Any]) -> str:
    """What came out."""
    if "failed" in result:
        return f"failed: {one_line(result['failed'])}"
    if "seen" in result:
        return one_line(result["seen"])
    if "rate" in result:
        return f"{result['rate'] / 1e9:.2f} GB/s"
    others = result["outside_cpu"]
    noise = f", others used {others:.0%} of the processors" if others > 0.05 else ""
    rate = format_figure(1 / result["step_s"])
    return f"{rate} tokens/s, first after {result['first_s']:.1f} s{noise}"
