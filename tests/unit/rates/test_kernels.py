"""Which kernels are faster for a prompt and an answer; plain where it makes no difference."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.gguf_bytes import Gguf, tensor
from support.machines import FINE
from support.weights import MIB

from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.estimate import estimate_weights
from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.planning.kernels import Kernels
from flexinfer.planning.weights import Use, Weight
from flexinfer.rates.by_type import packing_rate, type_rates, work_by_type
from flexinfer.rates.drive import DriveRate
from flexinfer.rates.drives import Copy, CopyRates
from flexinfer.rates.kernels import faster, kernels_for
from flexinfer.rates.rates import measure_rates, open_model
from flexinfer.rates.type_rates import Product, TypeRates

KINDS = {kind.name: kind for kind in QUANT_TYPES.values()}
Q4_0, Q6_K = Product(KINDS["q4_0"]), Product(KINDS["q6_K"])
PLAIN = {"q4_0": TypeRates(20e9, 50e9), "q6_K": TypeRates(40e9, 60e9)}


@pytest.mark.parametrize(
    ("row", "rows", "chosen"),
    [
        (1.0, 1.0, Kernels.PLAIN),  # the same
        (1.5, 1.5, Kernels.PACKED),
        (1.04, 1.04, Kernels.PLAIN),  # a tie
        (1.3, 0.6, Kernels.PLAIN),  # faster answers, slower prompts
        (1.0, 1.4, Kernels.PACKED),
    ],
)
def test_the_lower_time_wins(row: float, rows: float, chosen: Kernels) -> None:
    packed = {**PLAIN, "q4_0": TypeRates(20e9 * row, 50e9 * rows, 20e9)}
    assert faster({Q4_0: 1 << 30}, PLAIN, packed) is chosen


def test_types_count_by_their_work() -> None:
    packed = {**PLAIN, "q4_0": TypeRates(40e9, 100e9, 20e9)}
    assert faster({Q4_0: 1 << 30, Q6_K: 1 << 20}, PLAIN, packed) is Kernels.PACKED
    assert faster({Q4_0: 1 << 20, Q6_K: 1 << 30}, PLAIN, packed) is Kernels.PLAIN


def test_what_is_not_packed_counts_alike_in_both() -> None:
    """Two probes of the same kernels differ by chance, which must not choose."""
    lucky = {**PLAIN, "q6_K": TypeRates(60e9, 90e9), "q4_0": TypeRates(20e9, 50e9, 20e9)}
    assert faster({Q4_0: 1 << 20, Q6_K: 1 << 30}, PLAIN, lucky) is Kernels.PLAIN


def test_experts_are_products_of_their_own() -> None:
    weights = [
        Weight("up", 64 * MIB, 64, Use.EXPERTS, experts=8, used=2, group=0),
        Weight("q", 4 * MIB, 64, Use.MATMUL),
    ]
    work = work_by_type(weights, dict.fromkeys(("up", "q"), Q4_0.kind))
    assert work == {Product(Q4_0.kind, routed=True): 16 * MIB, Q4_0: 4 * MIB}
    routed = {"q4_0 by expert": TypeRates(20e9, 50e9), "q4_0": TypeRates(20e9, 50e9)}
    faster_dense = {
        "q4_0 by expert": TypeRates(20e9, 50e9, 1.0),
        "q4_0": TypeRates(1e12, 1e12, 1.0),
    }
    assert faster({Q4_0: 64 * MIB, **work}, routed, faster_dense) is Kernels.PACKED
    slower = {**faster_dense, "q4_0 by expert": TypeRates(10e9, 25e9, 1.0)}
    assert faster(work, routed, slower) is Kernels.PLAIN


def test_the_best_of_each_rate_counts() -> None:
    assert TypeRates(1.0, 4.0, 2.0).best(TypeRates(3.0, 2.0)) == TypeRates(3.0, 4.0, 2.0)


class Probes:
    """Stands in for the processor: what was measured, with how many cores, with which kernels."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Kernels]] = []
        self.gain = 2.0

    def measure(
        self, products: list[Product], cores: int, kernels: Kernels
    ) -> dict[str, TypeRates]:
        self.asked.append((cores, kernels))
        gain, packing = (self.gain, 20e9) if kernels is Kernels.PACKED else (1.0, 0.0)
        return {p.name: TypeRates(gain * 1e9, gain * 1e9, packing) for p in products}


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Probes:
    probes = Probes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("flexinfer.rates.processor.measure_types", probes.measure)
    return probes


@pytest.fixture
def large(tmp_path: Path) -> Catalogue:
    path = tmp_path / "large.gguf"
    weight = tensor("blk.0.attn_q.weight", (8192, 32768), Q4_0.kind.id, 0)
    content = Gguf(tensors=[weight], data=0).build()
    with open(path, "wb") as file:
        file.write(content)
        file.truncate(len(content) + 8192 * 32768 // 32 * 18)
    return read_catalogue(path)


@pytest.mark.parametrize(("kernels", "threads"), [(Kernels.PLAIN, 4), (Kernels.PACKED, 8)])
def test_threads_that_also_pack_are_twice_as_many(
    large: Catalogue, kernels: Kernels, threads: int
) -> None:
    drives = CopyRates((Copy(large.paths, DriveRate(1e9, 4, 4 << 20, "measured")),))
    with closing(open_model(large, drives, kernels, resident=False)) as reader:
        assert f"{threads} x {(16 << 20) // threads} bytes" in repr(reader)


def test_what_reading_takes_is_shared_by_the_processors_that_compute(
    probes: Probes, large: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = [DriveRate(3e9, 4, 4 << 20, "measured", 1e-10), DriveRate(1e9, 4, 4 << 20, "", 3e-10)]
    drives = CopyRates(tuple(Copy(large.paths, rate) for rate in rates))
    assert drives.cpu == pytest.approx(1.5e-10), "three bytes of one, one of the other"
    weights = estimate_weights(large, 2)
    monkeypatch.setattr("flexinfer.rates.rates.fills_processors", lambda threads: threads == 2)
    spare, full = (
        measure_rates(large, weights, drives, cores, Kernels.PLAIN)[1] for cores in (1, 2)
    )
    assert spare.asking == 0.0
    assert full.asking == pytest.approx(0.75e-10)
    packed = measure_rates(large, weights, drives, 2, Kernels.PACKED)[1]
    assert packed.asking == pytest.approx(1.5e-10), "in pieces half as large"


def test_the_choice_is_the_files_and_the_processors(
    probes: Probes, large: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels_for(large, FINE, None) is Kernels.PACKED
    assert {cores for cores, _ in probes.asked} == {8}, "with all cores"
    sets = [kernels for _, kernels in probes.asked]
    assert len(sets) == 4
    assert sets[:2] == sets[2:] == [*dict.fromkeys(sets)], "in turns"
    probes.gain = 0.5
    assert kernels_for(large, FINE, None) is Kernels.PACKED, "remembered"
    assert len(probes.asked) == 4
    monkeypatch.setattr("flexinfer.rates.kernels.processor_name", lambda: "another one")
    monkeypatch.setattr("flexinfer.rates.by_type.processor_name", lambda: "another one")
    assert kernels_for(large, FINE, None) is Kernels.PLAIN
    assert kernels_for(large, replace(FINE, cores=2), None) is Kernels.PLAIN
    assert {cores for cores, _ in probes.asked[8:]} == {2}
    probes.gain = 2.0
    assert type_rates({Q4_0: 1}, 2, Kernels.PACKED)["q4_0"].row == 0.5e9, "remembered for plans"
    assert len(probes.asked) == 12


@pytest.mark.parametrize(("repack", "kernels"), [(True, Kernels.PACKED), (False, Kernels.PLAIN)])
def test_what_was_asked_for_is_not_measured(
    probes: Probes, large: Catalogue, repack: bool, kernels: Kernels
) -> None:
    assert kernels_for(large, FINE, repack) is kernels
    assert probes.asked == []


def test_packing_is_shared_by_all_processors() -> None:
    rates = {"q4_0": TypeRates(1.0, 1.0, 10e9), "q6_K": TypeRates(1.0, 1.0)}
    assert packing_rate({Q4_0: 1 << 30}, rates, 2) == 20e9
    # Half of the bytes are not packed: the model goes through at twice the rate.
    assert packing_rate({Q4_0: 1 << 30, Q6_K: 1 << 30}, rates, 2) == 40e9
    assert packing_rate({Q6_K: 1 << 30}, rates, 2) == 0.0
