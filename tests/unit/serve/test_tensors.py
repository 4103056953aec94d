"""Tensors as they are listed for a picture: a layer and a kind each, or a name of their own."""

from __future__ import annotations

from support.forecasts import MIB, forecast_of

from flexinfer.serve.tensors import tensors


def test_each_weight_is_listed_in_the_order_of_the_plan() -> None:
    plan = forecast_of(1 << 30).plan()
    listed = tensors(plan)
    assert [one["name"] for one in listed] == [weight.name for weight in plan.weights]
    assert sum(one["bytes"] for one in listed) == plan.weight_bytes
    kinds = {one["kind"] for one in listed if one["layer"] is not None}
    assert kinds == {"attn_q", "ffn_up", "small"}
    outside = [one for one in listed if one["layer"] is None]
    assert all(one["kind"] == one["name"].removesuffix(".weight") for one in outside)
    assert max(one["bytes"] for one in listed) > MIB
