"""One budget for dense weights, window and slots: integers only."""

from __future__ import annotations

import pytest

from flexinfer.errors import BudgetError
from flexinfer.planning.expert_slots import Needs
from flexinfer.planning.fitting import everything
from flexinfer.planning.plan import Costs, Plan, Request
from flexinfer.planning.planner import plan, refit
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Use, Weight, group_bytes

MIB = 1 << 20
LAYERS, EXPERTS, USED = 6, 16, 4
COSTS = Costs(overhead=30 * MIB, kv=MIB, compute=MIB)
RATES = Rates(drive=1e9, compute_s=0.01, source="given")


def mixture() -> list[Weight]:
    weights = []
    for layer in range(LAYERS):
        weights.append(
            Weight(f"blk.{layer}.attn", 2 * MIB, 1024, Use.MATMUL, row_step=32, layer=layer)
        )
        weights += [
            Weight(
                f"blk.{layer}.{name}",
                EXPERTS * MIB,
                EXPERTS * 512,
                Use.EXPERTS,
                layer=layer,
                experts=EXPERTS,
                used=USED,
                group=layer,
            )
            for name in ("up", "gate", "down")
        ]
    return weights


def planned(room: int) -> Plan:
    request = Request(budget=1 << 40, ctx=512, ubatch=32, weight_memory=room)
    return plan(mixture(), request, lambda ctx, ubatch: COSTS, RATES)


def test_everything_fits_without_slots() -> None:
    whole = planned(everything(mixture()))
    assert whole.resident
    assert (whole.slots, whole.expert_window, whole.held_bytes) == ((), 0, whole.held_bytes)


@pytest.mark.parametrize("share", [15, 30, 50, 70, 90])
def test_slots_fill_what_dense_weights_leave(share: int) -> None:
    room = everything(mixture()) * share // 100
    decided = planned(room)
    dense = [
        rows
        for w, rows in zip(decided.weights, decided.locked_rows, strict=True)
        if w.group is None
    ]
    assert dense == [1024] * LAYERS
    assert max(decided.slots) - min(decided.slots) <= 1
    assert 0 < max(decided.slots) < EXPERTS
    assert decided.held_bytes <= room
    # What is left over is less than a slot, but for huge pages and the margins of locked pieces.
    assert room - decided.held_bytes < group_bytes(decided.weights)[0] + 6 * MIB
    assert decided.hit_rate == pytest.approx(sum(decided.slots) / (LAYERS * EXPERTS))


def test_more_memory_is_never_slower() -> None:
    least, whole = Needs.of(mixture()).least, everything(mixture())
    rates = [planned(least + (whole - least) * share // 20).bound_tok_s for share in range(21)]
    assert rates == sorted(rates)


def test_the_smallest_room_holds_one_expert() -> None:
    least = Needs.of(mixture()).least
    decided = planned(least)
    assert set(decided.slots) == {0}
    assert decided.expert_window >= group_bytes(decided.weights)[0]
    assert decided.hit_rate == 0.0
    with pytest.raises(BudgetError, match="too small"):
        planned(least - 1)


def test_a_token_streams_only_what_it_uses() -> None:
    decided = planned(Needs.of(mixture()).least)
    dense = sum(
        w.row_bytes * (w.rows - rows)
        for w, rows in zip(decided.weights, decided.locked_rows, strict=True)
        if w.group is None
    )
    assert decided.streamed_bytes == dense + LAYERS * 3 * USED * MIB


def test_a_plan_can_change_and_become_text() -> None:
    room = everything(mixture())
    decided = planned(room // 2)
    smaller = refit(decided, room // 3)
    assert sum(smaller.slots) < sum(decided.slots)
    assert refit(smaller, room // 2) == decided
    assert refit(decided, room).resident
    assert Plan.from_json(decided.to_json()) == decided
    assert "of experts" in decided.mode
    assert any("experts a layer stay" in reason for reason in decided.reasons)
