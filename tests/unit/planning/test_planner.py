"""The planner: budgets kept, filled, spread evenly; what gives way, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plans import assert_sound
from support.weights import (
    MIB,
    RATES,
    any_weights,
    costs_of_7b,
    few,
    fixed_costs,
    llama,
    matrix,
    total,
)

from flexinfer.errors import BudgetError
from flexinfer.planning.expert_slots import Needs
from flexinfer.planning.fitting import everything
from flexinfer.planning.plan import MIN_UBATCH, Costs, Plan, Request
from flexinfer.planning.planner import (
    adaptive_window,
    budgets,
    margin,
    plan,
    refit,
    rewindow,
    smallest_budget,
)
from flexinfer.planning.weights import ON_DEMAND, Use, Weight, piece_cost

GIB = 1 << 30
LLAMA_7B = llama()
# 70B: grouped-query attention, matrices of 132 MB.
LLAMA_70B = llama(layers=80, width=8192, ffn=28672, kv=1024)


def within(weights: list[Weight], room: int, window: int | None = None) -> Plan:
    """A plan for `room` bytes of weights, whatever the process needs."""
    request = Request(0, 512, 32, weight_memory=room, window=window)
    return plan(weights, request, fixed_costs(), RATES)


def lead(made: Plan) -> list[float]:
    """Unlocked bytes beyond an even spread over the bytes computed, after each weight."""
    read = [
        (weight.nbytes, weight.nbytes - weight.row_bytes * rows)
        for weight, rows in zip(made.weights, made.locked_rows, strict=True)
        if weight.use not in ON_DEMAND
    ]
    clock = sum(nbytes for nbytes, _ in read)
    found, elapsed, unlocked = [], 0, 0
    for nbytes, left in read:
        elapsed += nbytes
        unlocked += left
        found.append(unlocked - made.streamed_bytes * elapsed / clock)
    return found


@few
@given(any_weights(), st.integers(0, 60 * MIB))
def test_the_room_is_never_exceeded(weights: list[Weight], more: int) -> None:
    room = Needs.of(weights).least + more
    made = within(weights, room)
    assert_sound(made, room)
    assert made.window or not made.streamed_bytes


@few
@given(any_weights())
def test_less_than_the_smallest_room_is_refused(weights: list[Weight]) -> None:
    least = Needs.of(weights).least
    if least:
        with pytest.raises(BudgetError, match="for weights is too small: one step needs"):
            within(weights, least - 1)


@few
@given(any_weights(), st.integers(1, 40 * MIB), st.integers(0, 60 * MIB))
def test_a_window_that_was_asked_for_is_taken_if_it_can_be(
    weights: list[Weight], window: int, more: int
) -> None:
    room = Needs.of(weights).least + more
    made = within(weights, room, window)
    assert_sound(made, room)


@few
@given(st.integers(200, 4096), st.sampled_from([3, 32, 80]))
def test_a_budget_is_kept_and_filled(megabytes: int, layers: int) -> None:
    weights = {3: llama(layers=3), 32: LLAMA_7B, 80: LLAMA_70B}[layers]
    request = Request(megabytes * MIB, 512, 512)
    try:
        made = plan(weights, request, costs_of_7b, RATES)
    except BudgetError:
        assert request.budget < smallest_budget(weights, request, costs_of_7b)
        return
    assert made.total <= request.budget - margin(request.budget)
    if made.streamed_bytes:
        # More bytes would help.
        assert made.total >= 0.95 * request.budget
        assert_sound(made, request.budget - made.costs.total)


@pytest.mark.parametrize("weights", [LLAMA_7B, LLAMA_70B], ids=["7b", "70b"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 0.9, 0.97])
def test_unlocked_bytes_come_evenly(weights: list[Weight], share: float) -> None:
    made = within(weights, int(total(weights) * share))
    largest = max(weight.nbytes for weight in weights if weight.layer is not None)
    assert max(map(abs, lead(made))) <= largest
    # The ring can level what is uneven: no stretch fills it or runs it dry for long.
    assert max(lead(made)) - min(lead(made)) <= 2 * min(largest, made.window)


def test_evenly_means_in_time() -> None:
    """The first half of the layers takes three times as long: it gets three times the reads."""
    weights = [
        replace(matrix(f"w{n}", MIB * 8, 4096), compute_s=3.0 if n < 50 else 1.0)
        for n in range(100)
    ]
    made = within(weights, total(weights) // 2)
    left = [
        w.nbytes - w.row_bytes * rows for w, rows in zip(weights, made.locked_rows, strict=True)
    ]
    assert sum(left[:50]) / sum(left) == pytest.approx(0.75, abs=0.02)


@few
@given(st.integers(100, 3700), st.integers(0, 500))
def test_more_memory_never_streams_more(megabytes: int, more: int) -> None:
    small = within(LLAMA_7B, megabytes * MIB)
    large = within(LLAMA_7B, (megabytes + more) * MIB)
    # But for the rounding of one piece to its step, and of pieces to blocks.
    assert large.streamed_bytes <= small.streamed_bytes + MIB


@few
@given(any_weights(), st.integers(0, 40 * MIB), st.integers(0, 40 * MIB))
def test_more_memory_never_streams_more_of_anything(
    weights: list[Weight], first: int, second: int
) -> None:
    least, (few, many) = Needs.of(weights).least, sorted((first, second))
    small, large = within(weights, least + few), within(weights, least + many)
    largest = max(weight.nbytes for weight in weights)
    assert large.streamed_bytes <= small.streamed_bytes + large.window + largest


def test_the_window_is_small_beside_what_streams() -> None:
    weights = LLAMA_7B
    for share in (0.05, 0.25, 0.5, 0.75, 0.9):
        made = within(weights, int(total(weights) * share))
        assert made.window <= 64 * MIB
        assert made.window <= max(made.streamed_bytes / 4, 32 * MIB)
        assert made.window >= 4 * made.slice_bytes


def test_everything_fits() -> None:
    weights = llama(layers=2)
    made = within(weights, 2 * total(weights))
    assert made.resident
    assert (made.window, made.streamed_bytes) == (0, 0)
    assert made.reasons == ("everything fits: all weights are locked",)


def test_rows_on_demand_are_locked_last() -> None:
    weights = llama(layers=2)
    room = everything(weights)
    made = within(weights, room)
    assert made.locked_rows[0] == 0
    assert (made.window, made.streamed_bytes) == (0, 0)
    assert not made.resident
    assert made.reasons == (
        "everything that each pass reads fits and is locked; not locked: token_embd",
    )
    assert within(weights, room - 1).window > 0


def test_idle_weights_take_no_memory_from_others() -> None:
    idle = Weight("nextn", 100 * MIB, 1000, Use.IDLE)  # too large for a window of its own
    weights = [*llama(layers=4), idle]
    made = within(weights, everything(weights) // 2)
    assert made.locked_rows[-1] == 0
    assert made.streamed_bytes < everything(weights)
    assert within(weights, everything(weights)).streamed_bytes == 0


def test_a_weight_that_may_come_up_after_all_fits_the_window() -> None:
    weights = [matrix("up", MIB, 1024), Weight("encoder", 20 * MIB, 10, Use.IDLE)]
    assert Needs.of(weights).least == 20 * MIB + 8192
    made = within(weights, everything(weights))
    assert (made.window, made.locked_rows) == (20 * MIB + 8192, (1024, 0))
    assert within(weights, 2 * everything(weights)).resident
    weights += [matrix(f"w{n}", MIB, 1024) for n in range(100)]
    assert within(weights, 40 * MIB).window >= 20 * MIB


def test_weights_needed_whole_are_locked_first() -> None:
    whole = Weight("conv", 20 * MIB, 10, Use.WHOLE)
    weights = [*llama(layers=4), whole]
    made = within(weights, 100 * MIB)
    assert made.locked_rows[-1] == 10
    assert within(weights, 50 * MIB).window <= 30 * MIB


def test_a_weight_that_can_neither_be_cut_nor_locked_passes_through_the_window() -> None:
    weights = [Weight(f"w{n}", 20 * MIB, 10, Use.WHOLE) for n in range(10)]
    made = within(weights, 50 * MIB)
    assert made.window == 2 * piece_cost(weights[0], 10)
    assert sum(map(bool, made.locked_rows)) == 0
    assert Needs.of(weights).least == made.window


def test_small_tensors_are_locked_in_every_budget_that_holds_them() -> None:
    made = within(LLAMA_7B, 64 * MIB)
    norms = [rows for w, rows in zip(LLAMA_7B, made.locked_rows, strict=True) if "norm" in w.name]
    assert norms == [1] * 65


def test_the_last_bytes_go_to_a_part_of_one_weight() -> None:
    made = within(LLAMA_7B, 2 * GIB)
    parts = [w for w, rows in zip(LLAMA_7B, made.locked_rows, strict=True) if 0 < rows < w.rows]
    assert len(parts) == 1
    assert any(f"{parts[0].name} is locked in part" in reason for reason in made.reasons)


# -- what gives way --------------------------------------------------------------------------


def given_way(megabytes: int, ctx: int = 4096, ubatch: int = 512) -> Plan:
    request = Request(megabytes * MIB, ctx, ubatch, min_ctx=512)
    return plan(LLAMA_7B, request, costs_of_7b, RATES)


def test_nothing_gives_way_where_there_is_room() -> None:
    made = given_way(3000)
    assert (made.ctx, made.ubatch) == (4096, 512)
    assert not any("->" in reason for reason in made.reasons)


def test_the_batch_gives_way_first() -> None:
    made = given_way(2350)
    assert made.ctx == 4096
    assert MIN_UBATCH <= made.ubatch < 512
    assert made.reasons[0].startswith(f"ubatch 512 -> {made.ubatch}: smaller compute buffers")


def test_then_the_window_then_the_context() -> None:
    comfortable = given_way(2350)
    small_window = given_way(2300)
    small_context = given_way(1000)
    assert (small_window.ctx, small_window.ubatch) == (4096, 32)
    assert small_window.window < comfortable.window
    assert small_context.ctx < 4096
    assert small_context.ubatch == 32
    assert f"context 4096 -> {small_context.ctx}" in small_context.reasons[1]


def test_an_odd_batch_and_context_end_at_their_minima() -> None:
    tried: list[tuple[int, int]] = []

    def costs(ctx: int, ubatch: int) -> Costs:
        tried.append((ctx, ubatch))
        return Costs(GIB, 0, 0)

    request = Request(MIB, ctx=1700, ubatch=100, min_ctx=512)
    with pytest.raises(BudgetError):
        plan(LLAMA_7B, request, costs, RATES)
    assert tried == [(1700, 100), (1700, 50), (1700, 32), (850, 32), (512, 32)]


def test_a_small_batch_that_was_asked_for_stays() -> None:
    assert given_way(3000, ubatch=8).ubatch == 8
    with pytest.raises(BudgetError):
        given_way(100, ubatch=8)


def test_too_small_says_the_arithmetic_and_what_would_do() -> None:
    with pytest.raises(BudgetError) as caught:
        given_way(300)
    assert str(caught.value) == (
        "the budget of 300 MiB is too small: process 150 MiB + KV cache 256 MiB (context 512) + "
        "compute buffers 6.40 MiB + smallest window 13.8 MiB + margin 13.8 MiB; "
        "the smallest that would do is 440 MiB"
    )
    assert given_way(440).ctx == 512
    with pytest.raises(BudgetError):
        given_way(439)


@few
@given(any_weights(), st.integers(0, 4000))
def test_the_smallest_budget_is_the_smallest(weights: list[Weight], overhead: int) -> None:
    costs = fixed_costs(overhead * MIB)
    request = Request(0, 512, 512)
    budget = smallest_budget(weights, request, costs)
    made = plan(weights, replace(request, budget=budget), costs, RATES)
    assert made.total <= budget
    with pytest.raises(BudgetError):
        plan(weights, replace(request, budget=budget - 2 * MIB), costs, RATES)


# -- changing a plan -------------------------------------------------------------------------


def test_refit_keeps_context_and_batch() -> None:
    made = given_way(2350)
    smaller = refit(made, 40 * MIB)
    assert (smaller.ctx, smaller.ubatch, smaller.costs) == (made.ctx, made.ubatch, made.costs)
    assert_sound(smaller, 40 * MIB)
    assert refit(smaller, 8 * GIB).resident


def test_refit_refuses_what_no_step_can_do_with() -> None:
    made = given_way(2350)
    with pytest.raises(
        BudgetError, match=r"700 KiB are left for weights but one step needs 13.8 MiB"
    ):
        refit(made, 700 << 10)
    with pytest.raises(BudgetError, match="0 B are left"):
        refit(made, -5)


def test_budgets_reach_from_the_smallest_step_to_everything() -> None:
    made = given_way(2350)
    beside = 200 * MIB
    least, most = budgets(made, beside)
    assert refit(made, least - beside - margin(least)).streamed_bytes > 0
    with pytest.raises(BudgetError):
        refit(made, least - 2 * MIB - beside - margin(least))
    assert refit(made, most - beside - margin(most)).streamed_bytes == 0
    assert refit(made, most - 4 * MIB - beside - margin(most)).streamed_bytes > 0


def test_a_cap_on_weights_asks_nothing_of_the_process() -> None:
    request = Request(0, 4096, 512, weight_memory=100 * MIB)
    made = plan(LLAMA_7B, request, costs_of_7b, RATES)
    assert (made.ctx, made.ubatch) == (4096, 512)
    assert made.held_bytes <= 100 * MIB


@given(st.integers(1500, 3400), st.lists(st.integers(8, 64), min_size=1, max_size=4))
def test_another_window_keeps_the_room_and_most_of_what_is_locked(
    room: int, windows: list[int]
) -> None:
    made = within(LLAMA_7B, room * MIB)
    for window in windows:
        before, made = made, rewindow(made, 2 * window * MIB)
        assert made.window == 2 * window * MIB
        assert_sound(made, made.room)
        assert made.locked_bytes + made.window >= room * MIB - 6 * MIB
        moved = sum(
            weight.row_bytes * abs(now - then)
            for weight, now, then in zip(
                made.weights, made.locked_rows, before.locked_rows, strict=True
            )
        )
        assert moved <= abs(made.window - before.window) + 8 * MIB


def test_the_window_is_learned_only_where_it_was_planned() -> None:
    room = 2000 * MIB
    assert adaptive_window(within(LLAMA_7B, room)) is not None
    assert adaptive_window(within(LLAMA_7B, room, window=64 * MIB)) is None
    assert adaptive_window(within(LLAMA_7B, 8 * GIB)) is None
    request = Request(0, 512, 32, strategy="algorithm1", weight_memory=room)
    paper = plan(LLAMA_7B, request, fixed_costs(), RATES)
    assert adaptive_window(paper) is None
    with pytest.raises(ValueError, match="algorithm1"):
        rewindow(paper, 64 * MIB)
