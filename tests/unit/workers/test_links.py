"""What is kept of workers: a probe once, and what passes showed since."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.types import QuantType, TensorInfo
from flexinfer.planning.split import Share, Split
from flexinfer.rates.cache_file import Remembered
from flexinfer.workers import links
from flexinfer.workers.greeting import Worker
from flexinfer.workers.links import Link, learn, link_of, main_type

GIB = 1 << 30
Q4 = QuantType(2, "q4_0", 32, 18)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def model() -> Catalogue:
    matrix = TensorInfo("a", Q4, (4096, 4096), 0, 0, 4096 * 4096 // 32 * 18)
    norm = TensorInfo("b", QuantType(0, "f32", 1, 4), (4096,), 0, 0, 4 * 4096)
    return Catalogue(("model.gguf",), (1,), {}, (norm, matrix))


def worker(name: str, total: int = 4 * GIB) -> Worker:
    return Worker(name, total, total)


def known(name: str) -> Link:
    Remembered().put(
        f"worker {name}, {Q4.name}",
        {"rate": 10e9, "link": 1e9, "latency": 1e-4, "total": 4 * GIB},
    )
    return link_of(worker(name), Q4)


def split(*names: str, nbytes: int = GIB) -> Split:
    shares = tuple(Share(name, 1, 4, nbytes, 0.1) for name in names)
    return Split(1, after=shares)


def test_passes_correct_each_worker_by_the_same_part(model: Catalogue) -> None:
    for name in ("here:1", "here:2", "here:3"):
        assert known(name) == Link(10e9, 1e9, 1e-4)
    learn(model, split("here:1", "here:2"), 0.25)
    for name in ("here:1", "here:2"):
        found = link_of(worker(name), Q4)
        assert found.rate == pytest.approx(8e9)
        assert (found.link, found.latency) == (1e9, 1e-4)
    assert link_of(worker("here:3"), Q4).rate == 10e9
    learn(model, split("here:1"), 0.1)
    assert link_of(worker("here:1"), Q4).rate == pytest.approx(8e9)


@pytest.mark.parametrize(("nbytes", "away_s"), [(GIB, None), (GIB, 0.0), (1 << 20, 0.5)])
def test_too_little_says_nothing(model: Catalogue, nbytes: int, away_s: float | None) -> None:
    before = known("here:1")
    learn(model, split("here:1", nbytes=nbytes), away_s)
    assert link_of(worker("here:1"), Q4) == before


def test_another_machine_at_the_address_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answering:
        def device(self, endpoint: str) -> int:
            return 1

        def lost(self, endpoint: str) -> None:
            return None

    probed = Link(3e9, 2e9, 1e-3)
    monkeypatch.setattr(links, "rpc", Answering)
    monkeypatch.setattr(links, "_measure", lambda device, kind: probed)
    before = known("here:1")
    assert link_of(worker("here:1", 8 * GIB), Q4) == probed != before
    assert link_of(worker("here:1", 8 * GIB), Q4) == probed


def test_nothing_is_kept_of_cards(model: Catalogue) -> None:
    known("here:1")
    cards = Split(1, before=(Share("card0", 0, 4, GIB, 0.1),), after=split("here:1").after)
    learn(model, cards, 0.4)
    assert link_of(worker("here:1"), Q4).rate == pytest.approx(5e9)
    assert Remembered().get(f"worker card0, {Q4.name}") is None


def test_the_type_with_the_most_bytes(model: Catalogue) -> None:
    assert main_type(model) is Q4
