"""Forecasts: the budget that is enough, the curve, the one for a rate, the one to advise."""

from __future__ import annotations

import pytest
from support.forecasts import forecast_of
from support.weights import MIB, RATES, costs_of_7b, llama

from flexinfer.errors import RequestError
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


def test_the_curve_rises_to_what_the_processor_does() -> None:
    points = forecast_of(48 * MIB).curve()
    rates = [rate for _, rate in points]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(5.0)
    assert (48 * MIB, rates[[b for b, _ in points].index(48 * MIB)]) in points


def test_the_budget_for_a_rate_is_the_smallest() -> None:
    forecast = forecast_of(48 * MIB)
    budget = forecast.budget_for(2.0)
    assert forecast.plan(budget).expected_tok_s >= 2.0
    assert forecast.plan(budget - 2 * MIB).expected_tok_s < 2.0


def test_a_rate_out_of_reach_is_refused() -> None:
    with pytest.raises(RequestError, match="out of reach"):
        forecast_of(48 * MIB).budget_for(100.0)


def test_advice_only_where_it_helps() -> None:
    advice = forecast_of(32 * MIB).advice(most=1024 * MIB)
    assert advice is not None
    assert advice[0] > 32 * MIB
    assert advice[1] > forecast_of(32 * MIB).plan().expected_tok_s
    assert forecast_of(200 * MIB).advice(most=1024 * MIB) is None
    assert forecast_of(32 * MIB).advice(most=32 * MIB) is None
