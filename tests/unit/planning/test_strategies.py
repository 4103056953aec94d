"""The paper's strategies: its worked examples, its window, and what they share with ours."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plans import assert_sound
from support.weights import MIB, RATES, any_weights, few, fixed_costs, llama, matrix, total

from flexinfer.planning.expert_slots import Needs
from flexinfer.planning.fitting import is_rigid
from flexinfer.planning.paper import algorithm1, three_layers
from flexinfer.planning.plan import Plan, Request
from flexinfer.planning.planner import plan
from flexinfer.planning.strategies import STRATEGIES
from flexinfer.planning.weights import Use, Weight

MB = 1_000_000
LLAMA_7B = llama()
PAPERS = [name for name in STRATEGIES if name != "flex"]
KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down", "ffn_gate")


def within(strategy: str, weights: list[Weight], room: int, window: int | None = None) -> Plan:
    request = Request(0, 512, 32, strategy, weight_memory=room, window=window)
    return plan(weights, request, fixed_costs(), RATES)


def locked_kinds(made: Plan) -> Counter[str]:
    """How many layers each kind of matrix is locked in."""
    pieces = zip(made.weights, made.locked_rows, strict=True)
    return Counter(w.role for w, rows in pieces if w.role and rows == w.rows and not is_rigid(w))


# -- Algorithm 1 -----------------------------------------------------------------------------


def two_layers() -> list[Weight]:
    """The paper's example: attention tensors of 10 MB, FFN tensors of 30 MB."""
    sizes = [10 * MB] * 4 + [30 * MB] * 3
    return [
        matrix(f"blk.{layer}.{kind}", size, 1000, layer=layer)
        for layer in (1, 2)
        for kind, size in zip(KINDS, sizes, strict=True)
    ]


@pytest.mark.parametrize(
    ("megabytes", "picked"),
    [
        (150, ["ffn_up", "ffn_down", "attn_q", "attn_k 1"]),
        (70, ["ffn_up", "attn_q 1"]),
        (50, ["attn_q", "attn_k", "attn_v 1"]),
        (220, ["ffn_up", "ffn_down", "ffn_gate", "attn_q", "attn_k"]),
        (219, ["ffn_up", "ffn_down", "attn_q", "attn_k", "attn_v", "attn_output"]),
        (9, []),
    ],
)
def test_the_worked_examples(megabytes: int, picked: list[str]) -> None:
    """Those of the paper's text, then both sides of its first threshold."""
    weights = two_layers()
    wanted = {
        f"blk.{layer}.{kind.split()[0]}"
        for kind in picked
        for layer in ((1,) if kind.endswith(" 1") else (1, 2))
    }
    # Pieces cost blocks at both ends, which the paper does not count.
    capacity = megabytes * MB + len(weights) * 12288
    free = range(len(weights))
    assert {weights[i].name for i in algorithm1(weights, free, capacity)} == wanted


def test_algorithm1_with_grouped_queries_skips_what_does_not_fit() -> None:
    weights = llama(layers=4, width=8192, ffn=28672, kv=1024)
    size = {weight.role: weight.nbytes for weight in weights}
    free = [i for i, weight in enumerate(weights) if weight.role in KINDS]
    capacity = 4 * size["ffn_up"] + 7 * size["attn_k"]
    assert size["attn_q"] > 7 * size["attn_k"]
    # W_Q does not fit, but the smaller W_K and W_V do.
    picked = [weights[i].role for i in algorithm1(weights, free, capacity)]
    assert Counter(picked) == {"ffn_up": 4, "attn_k": 4, "attn_v": 2}


def test_algorithm1_of_a_model_without_its_tensors_locks_nothing() -> None:
    weights = [matrix(f"blk.{n}.ssm_in", MB, 1000, layer=n) for n in range(4)]
    assert algorithm1(weights, range(4), 10 * MB) == []


def test_a_fused_tensor_counts_as_attention() -> None:
    weights = [matrix(f"blk.{n}.attn_qkv", 10 * MB, 1000, layer=n) for n in range(2)]
    assert algorithm1(weights, range(2), 11 * MB) == [0]


# -- each of them ----------------------------------------------------------------------------


def test_the_window_holds_three_layers() -> None:
    layer = sum(weight.nbytes for weight in LLAMA_7B if weight.layer == 0)
    assert three_layers(LLAMA_7B) == pytest.approx(3 * layer, rel=0.01)
    for name in PAPERS:
        made = within(name, LLAMA_7B, 2000 * MIB)
        assert made.window == pytest.approx(3 * layer, rel=0.02)
        assert made.reasons[0].endswith("three layers")


def test_a_window_too_large_takes_what_fits_and_says_so() -> None:
    for name in PAPERS:
        made = within(name, LLAMA_7B, 200 * MIB)
        assert 190 * MIB < made.window <= 200 * MIB
        assert made.reasons[0] == ("window 198 MiB: the 326 MiB wanted (three layers) do not fit")


def test_a_window_that_was_asked_for() -> None:
    made = within("prefetch", LLAMA_7B, 1000 * MIB, window=64 * MIB)
    assert (made.window, made.reasons[0]) == (64 * MIB, "window 64.0 MiB: as asked")


@pytest.mark.parametrize("name", ["sync", "prefetch"])
def test_sync_and_prefetch_lock_no_matrix_even_when_everything_fits(name: str) -> None:
    for room in (1000 * MIB, 2 * total(LLAMA_7B)):
        made = within(name, LLAMA_7B, room)
        assert locked_kinds(made) == {}
        assert made.streamed_bytes > 0.97 * total(LLAMA_7B)
    assert made.lookahead is (name != "sync")


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n not in ("sync", "prefetch")])
def test_the_others_lock_everything_when_everything_fits(name: str) -> None:
    made = within(name, LLAMA_7B, 2 * total(LLAMA_7B))
    assert made.resident
    assert made.lookahead


def test_layers_are_locked_whole_from_the_first_on() -> None:
    made = within("layers", LLAMA_7B, 2000 * MIB)
    kinds = locked_kinds(made)
    count = kinds["attn_q"]
    assert kinds == dict.fromkeys(KINDS, count)
    assert 0 < count < 32
    locked = {w.layer for w, rows in zip(made.weights, made.locked_rows, strict=True) if rows > 1}
    assert locked == set(range(count))


def test_attention_first() -> None:
    few_bytes = locked_kinds(within("attention-first", LLAMA_7B, 1000 * MIB))
    assert few_bytes["attn_q"] == 32
    assert sum(few_bytes[kind] for kind in KINDS if kind.startswith("ffn")) == 0
    many_bytes = locked_kinds(within("attention-first", LLAMA_7B, 2500 * MIB))
    assert all(many_bytes[kind] == 32 for kind in KINDS[:4])
    assert 0 < many_bytes["ffn_up"] + many_bytes["ffn_down"] < 64


def test_ffn_first() -> None:
    made = locked_kinds(within("ffn-first", LLAMA_7B, 1500 * MIB))
    assert made["ffn_up"] == 32
    assert 0 < made["ffn_down"] < 32
    assert made["ffn_gate"] == 0
    # What is left is smaller than an FFN tensor; at most two attention tensors fit there.
    assert sum(made[kind] for kind in KINDS[:4]) <= 2


def test_algorithm1_locks_kinds_everywhere() -> None:
    made = locked_kinds(within("algorithm1", LLAMA_7B, 1500 * MIB))
    assert made["ffn_up"] == 32
    assert made["ffn_down"] == 0
    assert made["attn_q"] == 32


def test_the_output_matrix_streams() -> None:
    for name in PAPERS:
        made = within(name, LLAMA_7B, 2500 * MIB)
        assert made.weights[-1].name == "output"
        assert made.locked_rows[-1] == 0


def test_all_lock_the_same_small_tensors() -> None:
    for name in STRATEGIES:
        made = within(name, LLAMA_7B, 1000 * MIB)
        pieces = zip(made.weights, made.locked_rows, strict=True)
        assert sum(1 for w, rows in pieces if rows and w.use is Use.WHOLE) == 65


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("room", [200, 700, 1500, 2500, 3300])
def test_ours_never_streams_more(name: str, room: int) -> None:
    ours, paper = (within(n, LLAMA_7B, room * MIB) for n in ("flex", name))
    assert ours.streamed_bytes < paper.streamed_bytes
    assert ours.window <= paper.window


@few
@given(any_weights(), st.sampled_from(list(STRATEGIES)), st.integers(0, 60 * MIB))
def test_the_room_is_never_exceeded(weights: list[Weight], name: str, more: int) -> None:
    room = Needs.of(weights).least + more
    made = within(name, weights, room)
    assert_sound(made, room)
    assert made.request.strategy == name


def test_each_says_in_one_line_what_it_does() -> None:
    for strategy in STRATEGIES.values():
        assert 10 < len(strategy.summary) < 70
        assert "\n" not in strategy.summary
