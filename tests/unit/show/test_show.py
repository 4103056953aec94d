"""Pictures of plans: grids, bars, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import Costs, Plan, Rates, Request
from flexinfer.planning.weights import Use, Weight
from flexinfer.show import terminal
from flexinfer.show.grid import Grid, memory_parts

MIB = 1 << 20


def _weights(layers: int = 8) -> list[Weight]:
    found = [Weight("token_embd.weight", 4 * MIB, 4096, Use.ROWS)]
    for layer in range(layers):
        found.append(Weight(f"blk.{layer}.n.weight", 4096, 1, Use.WHOLE, 0, layer, "attn_norm"))
        for role in ("attn_q", "ffn_up"):
            name = f"blk.{layer}.{role}.weight"
            found.append(Weight(name, 4 * MIB, 4096, Use.MATMUL, 32, layer, role))
    return [*found, Weight("output.weight", 4 * MIB, 4096, Use.MATMUL, 32)]


def _forecast(budget: int, drive: float = 100.0 * MIB, **changes: object) -> Forecast:
    request = replace(Request(budget=budget, ctx=512, ubatch=32), **changes)  # type: ignore[arg-type]

    def costs(ctx: int, ubatch: int) -> Costs:
        return Costs(overhead=8 * MIB, kv=ctx * 1024, compute=ubatch * 1024)

    return Forecast(_weights(), request, costs, Rates(drive, 0.2, "given"))


@pytest.fixture
def plan() -> Plan:
    return _forecast(48 * MIB).plan()


def test_the_grid_counts_every_byte_once(plan: Plan) -> None:
    grid = Grid.of(plan)
    assert grid.kinds == ("attn_q", "ffn_up", "small")
    assert grid.layers == tuple(range(8))
    cells = [*grid.cells.values(), *grid.others.values()]
    assert sum(cell.nbytes for cell in cells) == plan.weight_bytes
    assert sum(cell.locked for cell in cells) == plan.locked_bytes


def test_the_picture_has_a_character_for_each_layer(plan: Plan) -> None:
    text = terminal.render([terminal.picture(plan, 100)], width=100)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    locked = [
        rows for w, rows in zip(plan.weights, plan.locked_rows, strict=True) if w.role == "ffn_up"
    ]
    drawn = lines["ffn_up"].split()[1]
    assert len(drawn) == 8
    assert [c == "█" for c in drawn] == [rows == 4096 for rows in locked]
    assert [c == "·" for c in drawn] == [rows == 0 for rows in locked]
    assert "0 to 7" in text


def test_many_layers_share_characters() -> None:
    forecast = replace(_forecast(4000 * MIB), weights=_weights(200))
    text = terminal.render([terminal.picture(forecast.plan(), 80)], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "a character" in text


def test_the_memory_parts_fill_the_budget(plan: Plan) -> None:
    parts = memory_parts(plan)
    assert sum(parts.values()) == plan.request.budget
    bar = terminal.render([terminal.memory_bar(plan, 60)], width=200).splitlines()[0]
    assert bar.count("█") == 60


def test_no_budget_has_nothing_free() -> None:
    assert "free" not in memory_parts(_forecast(1, weight_memory=30 * MIB).plan())


def test_the_curve_rises_to_what_the_processor_does() -> None:
    points = _forecast(48 * MIB).curve()
    rates = [rate for _, rate in points]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(5.0)
    assert (48 * MIB, rates[[b for b, _ in points].index(48 * MIB)]) in points


def test_the_budget_for_a_rate_is_the_smallest() -> None:
    forecast = _forecast(48 * MIB)
    budget = forecast.budget_for(2.0)
    assert forecast.plan(budget).expected_tok_s >= 2.0
    assert forecast.plan(budget - 2 * MIB).expected_tok_s < 2.0


def test_a_rate_out_of_reach_is_refused() -> None:
    with pytest.raises(RequestError, match="out of reach"):
        _forecast(48 * MIB).budget_for(100.0)


def test_advice_only_where_it_helps() -> None:
    advice = _forecast(32 * MIB).advice(most=1024 * MIB)
    assert advice is not None
    assert advice[0] > 32 * MIB
    assert advice[1] > _forecast(32 * MIB).plan().expected_tok_s
    assert _forecast(200 * MIB).advice(most=1024 * MIB) is None
    assert _forecast(32 * MIB).advice(most=32 * MIB) is None


def test_a_png_is_drawn(plan: Plan, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from flexinfer.show.png import save_png

    save_png(plan, tmp_path / "plan.png", "a model")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RequestError, match="cannot be written"):
        save_png(plan, tmp_path / "no folder" / "plan.png", "a model")


def test_without_matplotlib_the_error_says_what_to_install(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    from flexinfer.show.png import save_png

    with pytest.raises(UnsupportedError, match="pip install"):
        save_png(plan, tmp_path / "plan.png", "a model")
