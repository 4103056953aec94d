"""How long passes over several rows take: a probe, corrected by what passes took."""

from __future__ import annotations

import pytest

from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.planning.many import RowTimes
from flexinfer.planning.weights import Use, Weight
from flexinfer.rates.attention import CELLS, own_cells
from flexinfer.rates.row_times import (
    ROWS,
    added,
    corrected,
    query_elements,
    undisturbed,
    with_attention,
)

PROBED = RowTimes(((1, 0.25), (8, 1.0), (16, 2.0), (32, 4.0)))


def test_rows_add_what_the_probe_says() -> None:
    times = added(0.75, [0.25 * rows for rows in ROWS])
    assert times.points == tuple((rows, 0.5 + 0.25 * rows) for rows in ROWS)


def test_without_passes_the_probe_stands() -> None:
    assert corrected(PROBED, {}) == PROBED


def test_the_curve_goes_through_what_was_seen_and_keeps_its_shape() -> None:
    times = corrected(PROBED, {16: 3.0})
    assert times.seconds(1) == 0.25
    assert times.seconds(16) == pytest.approx(3.0)
    assert times.seconds(32) == pytest.approx(6.0)
    assert 1.0 < times.seconds(8) < 1.5


def test_numbers_that_were_not_probed_become_points() -> None:
    assert corrected(PROBED, {12: 1.8}).seconds(12) == pytest.approx(1.8)


def test_fewer_rows_never_take_longer() -> None:
    times = corrected(PROBED, {8: 2.5, 16: 2.25})
    assert times.seconds(8) <= times.seconds(12) <= times.seconds(16)


def test_a_disturbed_probe_does_not_make_fewer_rows_slower_than_more() -> None:
    assert undisturbed([1.0, 2.0, 9.0, 4.0, 5.0]) == [1.0, 2.0, 4.0, 4.0, 5.0]
    assert undisturbed([3.0, 2.0, 2.5]) == [2.0, 2.0, 2.5]


def test_queries_are_as_wide_as_what_projects_their_outputs() -> None:
    kinds = {kind.name: kind for kind in QUANT_TYPES.values()}
    # 64 rows of 256 elements: 8 blocks of 18 bytes, or 4 bytes each.
    weights = [
        Weight("a", 64 * 144, 64, Use.MATMUL, role="attn_output"),
        Weight("b", 64 * 144, 64, Use.MATMUL, role="ffn_up"),
        Weight("c", 64 * 1024, 64, Use.MATMUL, role="attn_output"),
    ]
    types = {"a": kinds["q4_0"], "b": kinds["q4_0"], "c": kinds["f32"]}
    assert query_elements(weights, types) == 256 + 256
    assert query_elements(weights[1:2], types) == 0


def test_attention_comes_on_top_of_products() -> None:
    assert with_attention([1, 2, 4], 3, [1, 10, 100]) == [4, 32, 304]
    assert with_attention([1, 2, 4], 0, ()) == [1, 2, 4]


def test_each_row_sees_cells_of_its_own() -> None:
    rows = 3
    mask = memoryview(own_cells(rows)).cast("H").tolist()
    seen = [[cell // CELLS == row for cell in range(rows * CELLS)] for row in range(rows)]
    assert mask == [0 if sees else 0xFC00 for row in seen for sees in row]
