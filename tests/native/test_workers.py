"""Layers at workers: which go there, and the bits of plain llama.cpp split the same way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import flexinfer
from support.decoding import Logits, Scenario, decode
from support.tiny_model import TinyModel
from support.workers import decode_split, lend_layers, worker

from flexinfer import Llama
from flexinfer import llama as of_class
from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.native.cards import Card
from flexinfer.native.rpc import rpc
from flexinfer.planning.split import Split
from flexinfer.workers import cards as on_cards

_SCENARIOS = (
    Scenario(),
    Scenario(prompts=(70, 30), ubatch=32, threads=1),
    Scenario(flash_attn=True, kv_type=8),
)
# So little that most of a model streams: then every layer is faster elsewhere.
_WEIGHTS = "1MiB"


def _decoded(path: Path, scenario: Scenario, **options: Any) -> tuple[Logits, Split]:
    with Llama(
        str(path), weight_memory=_WEIGHTS, verbose=False, **options, **scenario.options()
    ) as llm:
        split = llm.plan.request.split
        assert split is not None
        return decode(llm, scenario), split


def _assert_alike(path: Path, folder: Path, places: list[str], **options: Any) -> tuple[int, ...]:
    """Each scenario gives the bits of plain llama.cpp; returns the layers of each place."""
    found = [_decoded(path, scenario, **options) for scenario in _SCENARIOS]
    (counts,) = {split.counts for _, split in found}
    expected = decode_split(path, _SCENARIOS, folder, counts, places)
    for (ours, _), theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours, theirs)
    return counts


@pytest.mark.parametrize(
    ("preset", "quant"), [("tiny-llama", "q4_0"), ("tiny-tied", "q8_0"), ("tiny-moe", "q4_K")]
)
def test_all_layers_at_one_worker(
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    quant: str,
) -> None:
    with worker() as one:
        lend_layers(monkeypatch, {one.endpoint: 5})
        places = ["here", one.endpoint]
        path = tiny_model(preset, quant)
        assert _assert_alike(path, tmp_path, places, rpc=one.endpoint) == (0, 5)


@pytest.mark.parametrize(("preset", "quant"), [("tiny-llama", "q4_0"), ("tiny-moe", "q4_K")])
def test_some_layers_at_each_of_two_workers(
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    quant: str,
) -> None:
    """Each layer streams here, too, so that all three compute."""
    with worker() as one, worker() as two:
        lend_layers(monkeypatch, {one.endpoint: 2, two.endpoint: 2})
        places = ["here", one.endpoint, two.endpoint]
        path = tiny_model(preset, quant)
        assert _assert_alike(path, tmp_path, places, rpc=places[1:]) == (1, 2, 2)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A worker that stands in for a graphics card, as memory that is not the host's."""
    with worker() as one:
        found = [Card("card0", rpc().device(one.endpoint), one.memory)]
        for module in (of_class, on_cards):
            monkeypatch.setattr(module, "cards", lambda: found)
        yield one.endpoint


def test_the_first_layers_on_a_card(tiny_model: TinyModel, tmp_path: Path, card: str) -> None:
    """Then a batch comes as two graphs: the embedding's, and that of the last layers."""
    path = tiny_model("tiny-llama", "q4_0")
    counts = _assert_alike(path, tmp_path, [card, "here"], n_gpu_layers=2)
    assert counts == (2, 3)


def test_several_graphs_are_one_pass(tiny_model: TinyModel, card: str) -> None:
    path, scenario = tiny_model("tiny-llama", "q4_0"), Scenario(prompts=(64,), ubatch=32, steps=5)
    with Llama(
        str(path), weight_memory=_WEIGHTS, verbose=False, n_gpu_layers=2, **scenario.options()
    ) as llm:
        decode(llm, scenario)
        stats, plan = llm.stats, llm.plan
    assert stats.passes == 2 + 5
    assert stats.away_s > 0
    assert stats.read_bytes <= plan.locked_bytes + 9 * (plan.streamed_bytes + plan.window)


def test_all_layers_on_a_card(tiny_model: TinyModel, tmp_path: Path, card: str) -> None:
    path = tiny_model("tiny-tied", "q4_0")
    assert _assert_alike(path, tmp_path, [card, "here"], n_gpu_layers=-1) == (5, 0)


def test_what_places_weights_is_refused_without_a_card(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-llama"))
    with pytest.raises(UnsupportedError, match="tensor_split"):
        Llama(path, n_gpu_layers=2, tensor_split=[1.0], verbose=False)
    done = flexinfer("run", path, "-p", "one", "--gpu-layers", 2)
    assert done.returncode == 2
    assert "no backend for graphics cards" in done.stderr


def test_packed_kernels_are_not_computed_over_workers(tiny_model: TinyModel) -> None:
    with pytest.raises(RequestError, match="workers compute with plain kernels"):
        Llama(str(tiny_model("tiny-llama")), rpc="127.0.0.1:1", repack=True, verbose=False)


def test_run_answers_as_without_workers_and_plan_says_the_same(tiny_model: TinyModel) -> None:
    words = (tiny_model("tiny-llama"), "--weight-memory", "1MiB")
    with worker() as one:
        over = ("--rpc", one.endpoint, "--json")
        asked = ("-p", "one", "-n", 8, "--temp", 0)
        ours = json.loads(flexinfer("run", *words, *over, *asked).stdout)
        plan = json.loads(flexinfer("plan", *words, *over).stdout)
        shown = flexinfer("plan", *words, "--rpc", one.endpoint).stdout
    alone = json.loads(flexinfer("run", *words, *asked, "--no-repack", "--json").stdout)
    assert ours["token_ids"] == alone["token_ids"]
    assert ours["speed"]["away_ms"] > 0
    assert alone["speed"]["away_ms"] == 0
    (share,) = plan["plan"]["request"]["split"]["after"]
    # As many layers as pay, by rates that were measured.
    assert share["layers"] >= 1
    assert (share["name"], share["first"] + share["layers"]) == (one.endpoint, 5)
    assert f"{share['first']}-3, output" in shown
    assert one.endpoint in shown
    assert " s elsewhere + " in shown


def test_a_cache_folder_saves_sending(tiny_model: TinyModel, tmp_path: Path) -> None:
    """llama.cpp asks for tensors above 10 MiB by what is in them."""
    path, folder = tiny_model("tiny-wide", "f16"), tmp_path / "kept"
    with worker("300MiB", "--cache", str(folder)) as one:
        first, second = (_decoded(path, Scenario(), rpc=one.endpoint)[0] for _ in range(2))
        assert [file.stat().st_size for file in folder.rglob("*") if file.is_file()] != []
    assert np.array_equal(first, second)
