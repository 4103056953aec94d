"""The time of each weight, from the rates of the types: plans spread reads evenly in time."""

from __future__ import annotations

import pytest
from support.weights import MIB, RATES, fixed_costs, matrix, total

from flexinfer.gguf.types import QUANT_TYPES, QuantType
from flexinfer.planning.plan import Request
from flexinfer.planning.planner import plan
from flexinfer.planning.weights import Use, Weight
from flexinfer.rates.rates import time_each

KINDS = {kind.name: kind for kind in QUANT_TYPES.values()}
# The first half of the layers is of a type that takes twice as long for a byte.
LAYERS = [matrix(f"w{n}", 8 * MIB, 4096) for n in range(100)]
TYPES: dict[str, QuantType] = {f"w{n}": KINDS["q4_0" if n < 50 else "q8_0"] for n in range(100)}


def test_a_weight_takes_as_long_as_its_type_needs() -> None:
    timed = time_each(LAYERS, TYPES, {"q4_0": 1e9, "q8_0": 2e9})
    assert {weight.compute_s for weight in timed[:50]} == {8 * MIB / 1e9}
    assert {weight.compute_s for weight in timed[50:]} == {8 * MIB / 2e9}
    assert [weight.name for weight in timed] == [weight.name for weight in LAYERS]


def test_a_type_without_a_rate_goes_at_the_average_of_the_others() -> None:
    types = {**TYPES, "w0": KINDS["f16"]}
    timed = time_each(LAYERS, types, {"q4_0": 1e9, "q8_0": 2e9})
    slow, fast = 49 * 8 * MIB / 1e9, 50 * 8 * MIB / 2e9
    assert timed[0].compute_s == pytest.approx((slow + fast) / 99)


def test_only_what_a_token_uses_takes_time() -> None:
    experts = Weight("experts", 64 * MIB, 64, Use.EXPERTS, experts=8, used=2, group=0)
    table = Weight("table", 64 * MIB, 64, Use.ROWS)
    types = dict.fromkeys(("experts", "table"), KINDS["q4_0"])
    timed = time_each([experts, table], types, {"q4_0 by expert": 1e9})
    assert [weight.compute_s for weight in timed] == [16 * MIB / 1e9, 0.0]


def test_what_takes_longer_gets_more_of_the_reads() -> None:
    timed = time_each(LAYERS, TYPES, {"q4_0": 1e9, "q8_0": 2e9})
    request = Request(0, 512, 32, weight_memory=total(timed) // 2)
    made = plan(timed, request, fixed_costs(), RATES)
    left = [w.nbytes - w.row_bytes * n for w, n in zip(timed, made.locked_rows, strict=True)]
    assert sum(left[:50]) / sum(left) == pytest.approx(2 / 3, abs=0.02)
