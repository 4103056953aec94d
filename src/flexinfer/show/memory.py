"""What a plan spends its budget on."""

from __future__ import annotations

from flexinfer.planning.plan import Plan


def memory_parts(plan: Plan) -> dict[str, int]:
    """Bytes by purpose, in the order in which they are drawn; `free` only under a budget."""
    window = plan.window + plan.expert_window
    parts = {
        "overhead": plan.costs.overhead,
        "kv": plan.costs.kv,
        "compute": plan.costs.compute,
        "locked": plan.held_bytes - window,
        "window": window,
    }
    if plan.request.weight_memory is None:
        parts["free"] = max(plan.request.budget - plan.total, 0)
    return parts
