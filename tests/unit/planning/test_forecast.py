"""Forecasts: the budget that is enough is the planner's own."""

from __future__ import annotations

import pytest
from support.weights import MIB, RATES, costs_of_7b, llama

from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import Plan, Request
from flexinfer.planning.weights import Weight

SMALL = llama(layers=2)
LLAMA_70B = llama(layers=80, width=8192, ffn=28672, kv=1024)


@pytest.mark.parametrize(
    "weights", [llama(layers=2), llama(), LLAMA_70B], ids=["2 layers", "7b", "70b"]
)
def test_enough_is_the_least_budget_that_streams_nothing(weights: list[Weight]) -> None:
    request = Request(budget=0, ctx=512, ubatch=128)
    forecast = Forecast(weights, request, costs_of_7b, RATES)

    def gives_way(made: Plan) -> bool:
        return bool(made.streamed_bytes) or (made.ctx, made.ubatch) != (512, 128)

    assert not gives_way(forecast.plan(forecast.enough))
    assert gives_way(forecast.plan(forecast.enough - 2 * MIB))
