"""A model of matrices of equal size, and forecasts of it."""

from __future__ import annotations

from dataclasses import replace

from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import Costs, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Use, Weight

MIB = 1 << 20


def equal_weights(layers: int = 8) -> list[Weight]:
    found = [Weight("token_embd.weight", 4 * MIB, 4096, Use.ROWS)]
    for layer in range(layers):
        found.append(Weight(f"blk.{layer}.n.weight", 4096, 1, Use.WHOLE, 0, layer, "attn_norm"))
        for role in ("attn_q", "ffn_up"):
            name = f"blk.{layer}.{role}.weight"
            found.append(Weight(name, 4 * MIB, 4096, Use.MATMUL, 32, layer, role))
    return [*found, Weight("output.weight", 4 * MIB, 4096, Use.MATMUL, 32)]


def forecast_of(budget: int, drive: float = 100.0 * MIB, **changes: object) -> Forecast:
    """Of that model in `budget`, with a drive of so many bytes a second."""
    request = replace(Request(budget=budget, ctx=512, ubatch=32), **changes)  # type: ignore[arg-type]

    def costs(ctx: int, ubatch: int) -> Costs:
        return Costs(overhead=8 * MIB, kv=ctx * 1024, compute=ubatch * 1024)

    return Forecast(equal_weights(), request, costs, Rates(drive, 0.2, "given"))
