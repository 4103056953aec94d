"""Plans in the terminal: a character for each layer, a bar for the memory."""

from __future__ import annotations

from dataclasses import replace

from support.forecasts import MIB, equal_weights, forecast_of

from flexinfer.planning.plan import Plan
from flexinfer.show import terminal
from flexinfer.show.grid import memory_parts


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
    forecast = replace(forecast_of(4000 * MIB), weights=equal_weights(200))
    text = terminal.render([terminal.picture(forecast.plan(), 80)], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "a character" in text


def test_the_memory_parts_fill_the_budget(plan: Plan) -> None:
    parts = memory_parts(plan)
    assert sum(parts.values()) == plan.request.budget
    bar = terminal.render([terminal.memory_bar(plan, 60)], width=200).splitlines()[0]
    assert bar.count("█") == 60
