"""Where the time of a step goes, and what a short answer takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flexinfer.bench.cases import Case
from flexinfer.bench.summary import Summary

# Tokens of the answer that a person waits for, in the figure for short answers.
ANSWER = 100
PARTS = ("compute", "wait", "other", "read")


def split(summary: Summary, case: Case, drive: float | None) -> dict[str, float]:
    """Seconds of a median step by part; `read` runs beside the others."""
    step = summary.figure(case, lambda run: run["step_s"])
    read = summary.figure(case, per_token("drive_bytes"))
    parts: dict[str, float] = {}
    if step is None:
        return parts
    if all("compute_s" in run["per_token"] for run in summary.case_runs(case)):
        for part in ("compute", "wait"):
            found = summary.figure(case, per_token(f"{part}_s"))
            parts[part] = found.median if found else 0.0
        parts["other"] = max(step.median - sum(parts.values()), 0.0)
    if read is not None and drive:
        parts["read"] = read.median / drive
    return parts


def per_token(name: str) -> Callable[[dict[str, Any]], float]:
    def value(run: dict[str, Any]) -> float:
        found: float = run["per_token"][name]
        return found

    return value


def answer_seconds(run: dict[str, Any]) -> float:
    """From opened model to the last of `ANSWER` tokens, at the run's median step."""
    seconds: float = run["first_s"] + (ANSWER - 1) * run["step_s"]
    return seconds
