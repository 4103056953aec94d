"""Results in a file: they survive, are repeated where they failed, and are never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer.bench.cases import Case
from flexinfer.bench.store import Store, file_name
from flexinfer.errors import RequestError


def test_results_survive_and_failed_runs_are_tried_again(tmp_path: Path) -> None:
    path, case = tmp_path / "sub" / "machine.json", Case("flex", 100, None, 2)
    facts = {"weights": 9, "prompt": 16, "tokens": 4, "ctx": 512}
    runs = Store(path).model("m.gguf", **facts)
    runs.add(case, 0, {"failed": "no memory", "wall_s": 1.0})
    runs.add(case, 1, {"step_s": 1.0, "wall_s": 2.0, "window": 77})
    again = Store(path).model("m.gguf", **facts)
    assert len(again) == 2
    assert not again.has(case, 0)
    assert again.has(case, 1)
    assert again.seconds(case) == 2.0
    again.add(case, 0, {"step_s": 1.5, "wall_s": 3.0})
    assert len(again) == 2
    assert again.has(case, 0)
    assert [left.name for left in path.parent.iterdir()] == ["machine.json"]


def test_disturbed_runs_are_repeated_and_the_quietest_is_kept(tmp_path: Path) -> None:
    case = Case("flex", 100, None, 2)
    runs = Store(tmp_path / "machine.json").model("m.gguf")
    for others in (0.4, 0.1, 0.3):
        assert not runs.has(case, 0, 0.05)
        runs.add(case, 0, {"outside_cpu": others, "wall_s": others})
    assert runs.has(case, 0, 0.1)
    assert runs.seconds(case) == 0.1
    runs.add(case, 0, {"failed": "no memory", "wall_s": 1.0})
    assert runs.has(case, 0)


def test_results_with_other_settings_are_not_mixed(tmp_path: Path) -> None:
    store = Store(tmp_path / "machine.json")
    store.model("m.gguf", tokens=4)
    with pytest.raises(RequestError, match="tokens 4, not 16"):
        store.model("m.gguf", tokens=16)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99, "models": {}}', "\x00"])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"machine\.json"):
        Store(path)


def test_the_file_is_named_after_the_machine() -> None:
    machine = {"processor": "AMD EPYC(tm) 7", "cores": 2, "memory_total": 24 << 30}
    assert file_name(machine) == "amd-epyc-tm-7-2c-24g.json"


def test_streams_together_are_kept_by_what_they_are(tmp_path: Path) -> None:
    path, named = tmp_path / "machine.json", {"budget": 5, "slots": 8, "round": 0}
    runs = Store(path).model("m.gguf")
    assert not runs.has_together(named)
    runs.add_together(named, {"failed": "no memory"})
    assert not runs.has_together(named)
    runs.add_together(named, {"tok_s": 2.0})
    runs.add_together(named | {"slots": 16}, {"tok_s": 3.0})
    again = Store(path)
    assert again.model("m.gguf").has_together(named)
    assert not again.model("m.gguf").has_together(named | {"round": 1})
    assert [run["tok_s"] for run in again.document["models"]["m.gguf"]["together"]] == [2.0, 3.0]
