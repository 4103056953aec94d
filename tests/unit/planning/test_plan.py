"""Plans as data: their sums, their sentences, JSON both ways, and row slices."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.weights import MIB, RATES, any_weights, few, fixed_costs, llama, matrix, total

from flexinfer.planning.expert_slots import Needs
from flexinfer.planning.plan import Costs, Plan, Request
from flexinfer.planning.planner import plan
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Use, Weight, piece_cost, row_slices


def two_weights(window: int = MIB) -> Plan:
    """Half of a matrix of 4 MiB locked, half streamed; an embedding of 1 MiB on demand."""
    return Plan(
        request=Request(budget=10 * MIB, ctx=512, ubatch=64),
        ctx=512,
        ubatch=32,
        costs=Costs(overhead=100, kv=20, compute=3),
        weights=(Weight("embd", MIB, 256, Use.ROWS), matrix("up", 4 * MIB, 1024)),
        locked_rows=(0, 512),
        window=window,
        slice_bytes=MIB // 4,
        rates=Rates(drive=MIB, compute_s=0.5, source="given"),
    )


def test_sums() -> None:
    made = two_weights()
    assert made.weight_bytes == 5 * MIB
    assert made.locked_bytes == 2 * MIB
    assert made.streamed_bytes == 2 * MIB
    assert made.held_bytes == MIB + 2 * MIB + 8192
    assert made.total == made.held_bytes + 123
    assert not made.resident


def test_the_bound_is_the_slower_of_drive_and_processor() -> None:
    made = two_weights()
    assert made.bound_tok_s == pytest.approx(0.5)
    assert replace(made, rates=Rates(64 * MIB, 0.5, "given")).bound_tok_s == pytest.approx(2.0)
    assert replace(made, rates=Rates(1.0, 0.0, "given"), locked_rows=(0, 1024)).bound_tok_s == (
        float("inf")
    )


def test_without_lookahead_reading_and_computing_add_up() -> None:
    # 2 MiB at 2 MiB/s take a second.
    made = replace(two_weights(), rates=Rates(2.0 * MIB, 0.5, "given"), lookahead=False)
    assert made.bound_tok_s == pytest.approx(1 / 1.5)


def test_what_to_expect_is_the_bound_less_what_reading_loses_to_computing() -> None:
    # Reads 2 MiB in a second, computes in 0.8 s.
    reading = replace(two_weights(), rates=Rates(2.0 * MIB, 0.8, "given"))
    assert reading.bound_tok_s == pytest.approx(1.0)
    assert reading.expected_tok_s == pytest.approx(1 / 1.12)
    # Computing takes longer than reading and what it loses.
    computing = replace(reading, rates=Rates(4.0 * MIB, 0.8, "given"))
    assert computing.expected_tok_s == computing.bound_tok_s == pytest.approx(1 / 0.8)
    one_after_the_other = replace(reading, lookahead=False)
    assert one_after_the_other.expected_tok_s == pytest.approx(1 / 1.8)
    # Reading a byte takes as long from computing as a quarter of reading it from the drive.
    asking = replace(reading, rates=Rates(4.0 * MIB, 0.8, "given", asking=1 / (16 * MIB)))
    assert asking.bound_tok_s == computing.bound_tok_s
    assert asking.expected_tok_s == pytest.approx(1 / 0.925)
    resident = replace(reading, locked_rows=tuple(weight.rows for weight in reading.weights))
    assert resident.expected_tok_s == pytest.approx(1 / 0.8)


def test_the_mode_is_one_sentence() -> None:
    made = two_weights()
    assert (
        made.mode
        == "2.00 MiB of 5.00 MiB locked, 2.00 MiB streamed per token, about 0.482 tokens/s"
    )
    nothing = replace(made, locked_rows=(0, 1024))
    assert nothing.mode.startswith("4.00 MiB of 5.00 MiB locked, nothing streams")
    everything = replace(made, locked_rows=(256, 1024))
    assert everything.resident
    assert everything.mode == "all 5.00 MiB of weights in memory, nothing streams"


def test_a_plan_survives_json() -> None:
    request = Request(budget=2 << 30, ctx=512, ubatch=32)
    made = plan(llama(), request, fixed_costs(400 * MIB), RATES)
    document = json.loads(json.dumps(made.to_json()))
    assert Plan.from_json(document) == made
    assert document["weights"][0]["use"] == "rows"


@few
@given(any_weights(), st.integers(0, 40))
def test_every_plan_survives_json(weights: list[Weight], megabytes: int) -> None:
    room = Needs.of(weights).least + megabytes * MIB
    made = plan(weights, Request(0, 512, 32, weight_memory=room), fixed_costs(), RATES)
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_piece_costs_the_aligned_range_around_it() -> None:
    weight = matrix("up", 1000 * 100, 100)
    for rows in range(1, 101):
        nbytes = rows * 1000
        # The worst place for it: one byte before a block's end.
        worst = -(-(4095 + nbytes) // 4096) * 4096
        assert worst <= piece_cost(weight, rows) <= nbytes + 8192 + 4095


def test_slices_are_equal_multiples_of_the_step() -> None:
    weight = matrix("up", 1000 * 100, 1000, step=32)
    assert row_slices(weight, 0, 100 * 330) == [(0, 224), (224, 256), (480, 256), (736, 264)]
    assert row_slices(weight, 0, 100 * 1000) == [(0, 1000)]
    assert row_slices(weight, 960, 10) == [(960, 40)]
    assert row_slices(weight, 1000, 10) == []


def test_a_weight_without_a_step_is_never_cut() -> None:
    assert row_slices(matrix("up", 1000, 100, step=0), 0, 1) == [(0, 100)]


@few
@given(
    rows=st.integers(1, 2000),
    step=st.sampled_from([16, 32, 64]),
    locked=st.integers(0, 60),
    slice_bytes=st.integers(1, 30_000),
)
def test_slices_cover_the_rest(rows: int, step: int, locked: int, slice_bytes: int) -> None:
    weight = matrix("up", rows * 10, rows, step)
    first = min(locked * step, rows // step * step)
    slices = row_slices(weight, first, slice_bytes)
    assert [row for start, count in slices for row in range(start, start + count)] == list(
        range(first, rows)
    )
    assert all(start % step == 0 for start, _ in slices)
    assert all(count % step == 0 for _, count in slices[:-1])
    if len(slices) > 1:
        assert min(count for _, count in slices) >= step
        # The last takes the remainder; a step is the least there is.
        assert all(count * 10 <= max(slice_bytes, step * 10) for _, count in slices[:-1])
        assert (slices[-1][1] - step) * 10 <= max(slice_bytes, step * 10)


def test_bytes_of_a_llama() -> None:
    assert total(llama()) == pytest.approx(3.79e9, rel=0.01)
