"""Several sequences a pass: their plan, their rates, and the best number of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.weights import MIB, costs_of_7b, few, llama, matrix, total

from flexinfer.errors import BudgetError
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes, best, curve, slots_of, together
from flexinfer.planning.plan import Costs, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Use, Weight

# One row 0.125 s, eight 0.5 s, sixteen 1 s: what a processor does that reads weights once.
TIMES = RowTimes(((1, 0.125), (8, 0.5), (16, 1.0)))
CTX = 256


def forecast(budget: int, drive: float = 1e9) -> Forecast:
    rates = Rates(drive=drive, compute_s=0.125, source="given")
    return Forecast(llama(), Request(budget, 512, 512), costs_of_7b, rates)


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(1, 0.125), (8, 0.5), (12, 0.75), (16, 1.0), (32, 2.0)],
)
def test_times_lie_on_lines_between_what_was_measured(rows: int, seconds: float) -> None:
    assert TIMES.seconds(rows) == seconds


@given(st.integers(1, 64))
@few
def test_more_rows_never_take_less_time(rows: int) -> None:
    assert TIMES.seconds(rows) <= TIMES.seconds(rows + 1)


def test_sequences_share_what_is_read() -> None:
    one, eight = curve(forecast(1400 * MIB), TIMES, 32, (8, 1))
    assert (one.sequences, eight.sequences) == (1, 8)
    # Reading takes longer than computing eight rows, so a pass takes nearly as long as of one.
    assert 6.0 * one.together_tok_s < eight.together_tok_s < 8.0 * one.together_tok_s
    assert eight.each_tok_s * 8 == eight.together_tok_s <= eight.bound_tok_s


def test_caches_displace_weights() -> None:
    one, eight = curve(forecast(1400 * MIB), TIMES, CTX, (1, 8))
    displaced = 7 * CTX * MIB // 2
    more = eight.plan.streamed_bytes - one.plan.streamed_bytes
    # But for the window, which is a share of what is left.
    assert displaced - 16 * MIB < more < displaced + 16 * MIB


def test_where_all_is_in_memory_computing_is_the_bound() -> None:
    roomy = together(forecast(8000 * MIB), TIMES, CTX, 8)
    assert roomy.plan.streamed_bytes == 0
    assert roomy.bound_tok_s == roomy.together_tok_s == 8 / 0.5


def test_the_context_of_a_slot_does_not_give_way() -> None:
    made = together(forecast(1400 * MIB), TIMES, CTX, 8)
    assert made.plan.ctx == 8 * CTX
    with pytest.raises(BudgetError, match="context 65536"):
        together(forecast(1400 * MIB), TIMES, 8192, 8)


def test_the_batch_keeps_a_row_for_each() -> None:
    points = curve(forecast(2400 * MIB), TIMES, 16, (48,))
    assert [point.plan.ubatch >= 48 for point in points] == [True]


def test_the_curve_ends_where_the_budget_does() -> None:
    points = curve(forecast(1000 * MIB), TIMES, CTX)
    assert [point.sequences for point in points] == [1, 2, 3, 4, 5, 6]


def test_the_best_number_has_neighbours_that_are_worse() -> None:
    # Above eight rows, another kernel: each takes longer than a pass of its own.
    steep = RowTimes(((1, 0.125), (8, 0.5), (16, 2.5)))
    model = forecast(9000 * MIB)
    assert best(model, steep, CTX).sequences == 8
    rates = {point.sequences: point.together_tok_s for point in curve(model, steep, CTX)}
    assert rates[8] > max(rates[7], rates[10])


def test_of_equal_numbers_the_smallest_is_best() -> None:
    # Computing n rows takes n times as long, and all is in memory: nothing is gained by more.
    level = RowTimes(((1, 0.5), (64, 32.0)))
    free = Forecast(llama(), Request(9000 * MIB, 512, 512), no_cache, Rates(1e9, 0.5, "given"))
    assert best(free, level, CTX).sequences == 1


def test_one_sequence_too_many_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(BudgetError, match="the smallest that would do"):
        best(forecast(300 * MIB), TIMES, CTX)


def test_rows_are_routed_to_more_experts_than_one() -> None:
    experts = Weight("ffn", 640 * MIB, 64 * 64, Use.EXPERTS, 0, 0, "ffn", 0.0, 64, 4, 0)
    dense = matrix("attn", 64 * MIB, 1024)
    model = Forecast([dense, experts], Request(400 * MIB, 512, 32), no_cache, Rates(1e9, 0.1, ""))
    one, sixteen = curve(model, TIMES, CTX, (1, 16))
    # 64 x (1 - (60/64)^16) is 41 of the experts, against 4.
    assert sixteen.plan.expert_bytes / one.plan.expert_bytes == pytest.approx(41 / 4, rel=0.01)
    assert total([experts]) > sixteen.plan.expert_bytes


def no_cache(ctx: int, ubatch: int) -> Costs:
    return Costs(0, 0, 0)


def test_one_slot_is_none_of_several() -> None:
    assert slots_of(1, 256) == "1 slot of 256 tokens"
    assert slots_of(2, 256) == "2 slots of 256 tokens"
