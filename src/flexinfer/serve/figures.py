"""What the engine did and holds, as one document and as lines for Prometheus."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flexinfer.machine.machine import process_memory
from flexinfer.memory.ledger import Ledger
from flexinfer.serve.models import ServedModel

# Name after "flexinfer_", kind, what it says, and where it stands in the document.
_LINES = (
    ("passes_total", "counter", "Passes over the model.", ("passes",)),
    ("read_bytes_total", "counter", "Bytes read from the drive for passes.", ("read_bytes",)),
    ("compute_seconds_total", "counter", "Seconds of computing.", ("compute_s",)),
    ("wait_seconds_total", "counter", "Seconds in which passes waited.", ("wait_s",)),
    ("memory_budget_bytes", "gauge", "Budget of the process.", ("memory", "budget")),
    ("memory_used_bytes", "gauge", "Anonymous and kernel bytes.", ("memory", "used")),
    (
        "locked_bytes",
        "gauge",
        "Locked weights in memory now.",
        ("memory", "locked"),
    ),
    ("window_bytes", "gauge", "Window that weights pass through.", ("memory", "window")),
    ("kv_bytes", "gauge", "KV cache.", ("memory", "kv")),
    ("bound_tokens_per_second", "gauge", "Bound for one sequence.", ("bound_tok_s",)),
    ("pass_seconds", "gauge", "Seconds of the mean pass so far.", ("pass_s",)),
    ("drafted_tokens_total", "counter", "Tokens drafted.", ("drafts", "drafted")),
    ("accepted_tokens_total", "counter", "Drafted tokens accepted.", ("drafts", "accepted")),
    ("tokens_per_pass", "gauge", "Tokens a pass of answers.", ("drafts", "tokens_per_pass")),
    ("expert_hit_ratio", "gauge", "Experts found in memory.", ("expert_hit_rate",)),
)

_DRIVE_LINES: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], int]], ...] = (
    (
        "drive_read_bytes_total",
        "counter",
        "Bytes that one of several drives gave.",
        lambda drive: drive["bytes_read"],
    ),
    (
        "drive_left_aside",
        "gauge",
        "Whether a drive failed and is not read any more.",
        lambda drive: int(drive["failure"] is not None),
    ),
)


def figures(
    model: ServedModel, ledger: Ledger, drafts: dict[str, float] | None = None
) -> dict[str, Any]:
    """Counts, seconds and bytes since the server started; up to date during a pass."""
    engine = model.engine
    stats, plan = engine.stats, model.plan
    experts = model.experts
    seconds = stats.compute_s + stats.wait_s
    document = {
        "passes": stats.passes,
        "tokens": stats.tokens,
        "segments": stats.segments,
        "read_bytes": engine.storage.traffic.read_bytes,
        "compute_s": stats.compute_s,
        "wait_s": stats.wait_s,
        "idle_s": stats.idle_s,
        "pass_s": seconds / stats.passes if stats.passes else 0.0,
        "bound_tok_s": plan.bound_tok_s,
        "expected_tok_s": plan.expected_tok_s,
        "memory": {
            "budget": ledger.limit or 0,
            "used": process_memory(),
            **model.opening.memory_use(),
            "locked": model.locked_bytes,
            "server": ledger.accounts.get("server", 0),
            "draft": drafts["bytes"] if drafts else 0,
        },
    }
    if len(model.drive_uses) > 1:
        document["drives"] = [asdict(use) for use in model.drive_uses]
    if experts is not None:
        document["expert_hit_rate"] = experts.counters.hit_rate
    if drafts is not None:
        document["drafts"] = drafts
    return document


def metrics(document: dict[str, Any]) -> str:
    """The figures in Prometheus' text format; those that a model does not have are left out."""
    lines = []
    for name, kind, what, path in _LINES:
        value: Any = document
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            full = f"flexinfer_{name}"
            lines += [f"# HELP {full} {what}", f"# TYPE {full} {kind}", f"{full} {value}"]
    return "\n".join(lines + _drive_lines(document.get("drives", ()))) + "\n"


def _drive_lines(drives: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each of several drives, which is known by the path of its copy."""
    lines = []
    for name, kind, what, value in _DRIVE_LINES:
        full = f"flexinfer_{name}"
        lines += [f"# HELP {full} {what}", f"# TYPE {full} {kind}"] if drives else []
        for drive in drives:
            # Names as a label may have them.
            path = json.dumps(drive["path"], ensure_ascii=False)
            lines.append(f"{full}{{path={path}}} {value(drive)}")
    return lines
