"""Cases of a benchmark: their order, strategies, windows."""

from __future__ import annotations

import pytest
from support.bench_runs import MIB
from support.tiny_model import TinyModel

from flexinfer.bench.cases import COMPUTE, DRIVE, MMAP, STOCK, SYSTEMS, Case, Grid, parse_window
from flexinfer.errors import RequestError, SizeError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.planning.strategies import STRATEGIES


def test_a_round_begins_with_the_bound_and_every_second_one_runs_backwards() -> None:
    grid = Grid([1, 2], ["mmap", "flex"], [None, 500], [2], [None, 64])
    first, second = grid.round(0), grid.round(1)
    assert [case.system for case in first[:3]] == [COMPUTE, DRIVE, DRIVE]
    assert [case.drive for case in first[1:3]] == [None, 500]
    assert set(first) == set(second)
    assert len(first) == len(set(first)) == 3 + 2 * 2 * 3
    ahead, back = ([case.system for case in cases[3:6]] for cases in (first, second))
    assert ahead == ["mmap", "flex", "flex"]
    assert back == ["flex", "flex", "mmap"]


def test_stock_llama_cpp_is_measured_each_round_and_tried_in_less_once() -> None:
    grid = Grid([1, 2], ["flex"], [None, 500], [2, 1], [None], stock=True, too_little=2)
    first, second = ([c for c in grid.round(n) if c.system == STOCK] for n in (0, 1))
    in_memory = [Case(STOCK, 0, None, 2), Case(STOCK, 0, None, 1)]
    assert first == [*in_memory, Case(STOCK, 2, None, 2)]
    assert second == in_memory


def test_every_strategy_can_be_compared() -> None:
    assert set(SYSTEMS) == {MMAP, *STRATEGIES}
    assert SYSTEMS[0] == MMAP
    assert SYSTEMS[-1] == "flex"


def test_a_window_is_bytes_or_layers_of_the_model(tiny_model: TinyModel) -> None:
    catalogue = read_catalogue(tiny_model("tiny-llama"))
    layer = sum(t.nbytes for t in catalogue.tensors if t.name.startswith("blk.0."))
    assert parse_window("2L", catalogue) == 2 * layer
    assert parse_window("3MiB", catalogue) == 3 * MIB
    with pytest.raises(SizeError):
        parse_window("wide", catalogue)
    with pytest.raises(RequestError, match="a window of 0L"):
        parse_window("0L", catalogue)
