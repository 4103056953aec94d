"""Each weight of the served model for whoever draws it: what it is, and where its bytes are now."""

from __future__ import annotations

from typing import Any

from flexinfer.errors import EngineError
from flexinfer.planning.plan import Plan
from flexinfer.planning.weights import Use, Weight
from flexinfer.serve.models import ServedModel


def tensors(plan: Plan) -> list[dict[str, Any]]:
    """Every weight, in the order in which graphs use them; `bytes` of all its experts."""
    return [_tensor(weight) for weight in plan.weights]


def located(model: ServedModel) -> dict[str, Any]:
    """The mode, and bytes in memory of each weight; answered during a pass, too.

    Raises:
        EngineError: nothing is open yet.
    """
    storage = model.opening.storage
    if storage is None:
        raise EngineError("the model is still loading; ask again")
    presence = storage.presence
    return {
        "mode": model.plan.mode,
        "locked": presence.locked,
        "passing": presence.passing,
        "experts": presence.experts,
    }


def _tensor(weight: Weight) -> dict[str, Any]:
    if weight.layer is None:
        kind = weight.name.removesuffix(".weight")
    else:
        # Norms, biases and the like: too small to be seen beside matrices.
        kind = "small" if weight.use is Use.WHOLE else weight.role or "other"
    return {
        "name": weight.name,
        "layer": weight.layer,
        "kind": kind,
        "bytes": weight.nbytes,
        "experts": weight.experts,
    }
