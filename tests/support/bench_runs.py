"""Runs of a benchmark, as a worker and its watcher would describe them."""

from __future__ import annotations

from typing import Any

from flexinfer.bench.cases import COMPUTE, DRIVE, Case
from flexinfer.bench.summary import Setting
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


def together(slots: int, rate: float, bound: float, **more: Any) -> dict[str, Any]:
    """What so many streams reached at half of 1000 MiB."""
    named = {"budget": 500 * MIB, "drive": None, "cores": 2, "kv": "f16", "round": 0}
    figures = {"tok_s": rate, "bound_tok_s": bound, "predicted_tok_s": 0.9 * bound}
    return {**named, "slots": slots, **figures, **more}
