"""Experts in memory: slots, the window, and what failures leave."""

from __future__ import annotations

import pytest
from support.addresses import memory
from support.faulty_reader import FaultyReader, LateReader, fails

from flexinfer.errors import ReadError
from flexinfer.reading.memory_reader import MemoryReader
from flexinfer.reading.waiting import Counters, Waiting
from flexinfer.seam import Batch
from flexinfer.storage.experts.experts import Experts
from flexinfer.storage.experts.reads import Matrix, MatrixReads
from flexinfer.storage.experts.store import ExpertStore

EXPERTS = 6
UP = Matrix("up", 0, 100, 1000)
DOWN = Matrix("down", 0, 100 + EXPERTS * 1000, 700)
SPAN = UP.span + DOWN.span
BLOB = bytes(100) + b"".join(
    bytes([member * 16 + expert]) * matrix.nbytes
    for member, matrix in enumerate((UP, DOWN))
    for expert in range(EXPERTS)
)


class Harness:
    """A store over one blob, with one group of two matrices an expert."""

    def __init__(
        self,
        slots: int,
        window: int = SPAN,
        faults: dict[int, object] | None = None,
        reader: MemoryReader | None = None,
    ) -> None:
        reader = reader or FaultyReader([BLOB], faults or {})  # type: ignore[arg-type]
        self.io = Counters()
        reads = MatrixReads(reader, self.io, Waiting(hang_s=0.02, cancel_s=0.01))
        self.experts = Experts()
        self.store = ExpertStore([((UP, DOWN), EXPERTS)], [slots], window, reads, self.experts)

    def step(self, experts: list[int], members: tuple[int, ...], tokens: int = 1) -> list[int]:
        """One step; checks the bytes of all that arrives and returns the order of arrival."""
        first = members == (0,)
        batch = Batch(0, members, (1,) if first else (), first, tokens, dict.fromkeys(experts, 1))
        order = []
        for ready in self.store.fetch(batch):
            for expert, addresses in ready:
                order.append(expert)
                for member, address in zip(members, addresses, strict=True):
                    size = (UP, DOWN)[member].nbytes
                    assert memory(address, size) == bytes([member * 16 + expert]) * size
        return order

    def token(self, *experts: int) -> list[int]:
        order = self.step(list(experts), (0,))
        assert sorted(self.step(list(experts), (1,))) == sorted(experts)
        return order


def test_experts_stay_in_slots() -> None:
    with_slots = Harness(slots=3)
    assert sorted(with_slots.token(0, 1)) == [0, 1]
    read = with_slots.io.read_bytes
    assert with_slots.token(0, 1) == [0, 1]
    assert with_slots.io.read_bytes == read
    counters = with_slots.experts.counters
    assert (counters.wanted, counters.hits) == (4, 2)
    assert with_slots.store.window.passed == 0
    assert with_slots.experts.resident == ((0, 1),)


def test_the_least_wanted_goes() -> None:
    harness = Harness(slots=3)
    for token in ((0, 1), (0, 2), (0, 2), (0, 4)):
        harness.token(*token)
    assert harness.experts.resident == ((0, 2, 4),)


@pytest.mark.parametrize("slots", [0, 1, 5])
def test_a_batch_larger_than_the_slots_passes_through(slots: int) -> None:
    harness = Harness(slots)
    everything = list(range(EXPERTS))
    for _ in range(3):
        assert sorted(harness.step(everything, (0,), tokens=9)) == everything
        assert sorted(harness.step(everything, (1,), tokens=9)) == everything
    assert len(harness.experts.resident[0]) == slots
    assert harness.store.window.passed == 3 * 2 * (EXPERTS - slots)


def test_what_passes_through_is_read_once_a_batch() -> None:
    harness = Harness(slots=0, window=4 * SPAN)
    everything = list(range(EXPERTS))
    harness.step(everything, (0,), tokens=9)
    harness.step(everything, (1,), tokens=9)
    aligned = harness.io.read_bytes
    harness.step(everything, (0,), tokens=9)
    harness.step(everything, (1,), tokens=9)
    assert harness.io.read_bytes == 2 * aligned


def test_other_experts_than_were_read_ahead() -> None:
    harness = Harness(slots=0, window=4 * SPAN)
    assert sorted(harness.step([0, 1, 2], (0,))) == [0, 1, 2]
    assert sorted(harness.step([3, 4], (0,))) == [3, 4]
    assert sorted(harness.step([3, 4], (1,))) == [3, 4]


@pytest.mark.parametrize("slots", [0, 3])
def test_a_failed_read_is_raised_and_forgotten(slots: int) -> None:
    harness = Harness(slots, faults={1: fails("the drive failed")})
    with pytest.raises(ReadError, match="the drive failed"):
        harness.token(0, 1, 2)
    harness.store.stop()
    assert 1 not in harness.experts.resident[0]
    harness.token(0, 1, 2)


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("resized", [False, True])
def test_a_late_answer_hits_nobody(slots: int, resized: bool) -> None:
    """Of 2: its slot, or its place in the window, is another's by the time the drive answers."""
    reader = LateReader([BLOB], {2})
    harness = Harness(slots, 4 * SPAN, reader=reader)
    with pytest.raises(ReadError, match="did not answer"):
        harness.token(0, 1, 2)
    harness.store.stop()
    if resized:
        harness.store.resize([slots], 4 * SPAN)
    batch = Batch(0, (0, 1), (), True, 1, dict.fromkeys((3, 4, 5), 1))
    arrived = []
    for ready in harness.store.fetch(batch):
        before = [(a, memory(a, UP.nbytes)) for _, addresses in ready for a in addresses]
        reader.answer()
        assert [(a, memory(a, UP.nbytes)) for a, _ in before] == before
        arrived += [expert for expert, _ in ready]
    assert sorted(arrived) == [3, 4, 5]
    assert sorted(harness.token(0, 1, 2)) == [0, 1, 2]


def test_experts_stay_when_the_number_of_slots_changes() -> None:
    harness = Harness(slots=2)
    harness.token(0, 1)
    harness.store.resize([4], SPAN)
    harness.token(2, 3)
    assert list(harness.experts.resident) == [(0, 1, 2, 3)]
    harness.store.resize([1], 2 * SPAN)
    assert list(harness.experts.resident) == [(0,)]
    assert sorted(harness.token(0, 5)) == [0, 5]
    harness.store.resize([0], SPAN)
    assert list(harness.experts.resident) == [()]
    harness.token(0, 5)


def test_a_window_below_one_expert_says_so() -> None:
    harness = Harness(slots=0, window=4096)
    with pytest.raises(ReadError, match="too small for one expert"):
        harness.step([0], (0, 1))


def test_repr() -> None:
    harness = Harness(slots=2)
    harness.token(0, 1)
    assert repr(harness.store) == (
        f"<ExpertStore 2 experts in 1 groups, <ExpertWindow <Ring 0 of {SPAN} bytes in 0 places>>>"
    )
