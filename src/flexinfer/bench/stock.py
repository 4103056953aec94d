"""What llama.cpp as it comes does on this machine: with all weights in memory, and in less."""

from __future__ import annotations

from flexinfer.bench.cases import COMPUTE, STOCK, Case
from flexinfer.bench.spread import Spread
from flexinfer.bench.summary import Setting, Summary
from flexinfer.planning.kernels import Kernels
from flexinfer.sizes import format_size


def stock_lines(summary: Summary, setting: Setting) -> list[str]:
    """One sentence for each of the two that was measured."""
    return [line for line in (_in_memory(summary, setting), _in_less(summary, setting)) if line]


def stock_step(summary: Summary, cores: int) -> Spread | None:
    """Seconds a token with all weights in memory; computing is just that with packed kernels."""
    system = COMPUTE if summary.kernels is Kernels.PACKED else STOCK
    return Spread.of(run["step_s"] for run in summary.steady(Case(system, 0, None, cores)))


def _in_memory(summary: Summary, setting: Setting) -> str:
    step = stock_step(summary, setting.cores)
    if step is None:
        return ""
    rate = Spread(1 / step.median, 1 / step.most, 1 / step.least, step.count)
    return f"`stock` llama.cpp with all weights in memory: {rate.shown()} tokens/s."


def _in_less(summary: Summary, setting: Setting) -> str:
    found = [
        f"in {format_size(run['budget'])}: {run['seen']}"
        for run in summary.runs
        if run["system"] == STOCK and run["budget"] and run["cores"] == setting.cores
    ]
    if not found:
        return ""
    return (
        "`stock` llama.cpp in less memory than the model, into which it packs weights while it "
        f"loads, {'; '.join(found)}."
    )
