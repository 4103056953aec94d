"""What a guess may touch: the slots and the reads of one layer's experts."""

from __future__ import annotations

import threading

import pytest
from support.addresses import memory

from flexinfer.errors import ReadError
from flexinfer.reading.memory_reader import MemoryReader
from flexinfer.reading.reader import Transfer, Treatment
from flexinfer.reading.waiting import Counters, Waiting
from flexinfer.seam import Batch
from flexinfer.storage.experts.experts import Experts
from flexinfer.storage.experts.reads import Matrix, MatrixReads
from flexinfer.storage.experts.store import ExpertStore

EXPERTS, USED, SLOTS = 16, 2, 7
MATRIX = Matrix("up", 0, 0, 4096)
BLOB = b"".join(bytes([expert]) * MATRIX.nbytes for expert in range(EXPERTS))


class PatientReader(MemoryReader):
    """Reads that are not urgent wait until `deliver`."""

    def __init__(self) -> None:
        super().__init__([BLOB])
        self.waiting: list[tuple[Transfer, int, memoryview]] = []

    def start(
        self,
        file: int,
        start: int,
        view: memoryview,
        need: int,
        *,
        urgent: bool = False,
        treat: Treatment | None = None,
    ) -> Transfer:
        if urgent:
            return super().start(file, start, view, need, urgent=True, treat=treat)
        transfer = Transfer()
        self.waiting.append((transfer, start, view))
        return transfer

    def deliver(self, error: ReadError | None = None) -> None:
        for transfer, start, view in self.waiting:
            if error is None:
                view[:] = BLOB[start : start + len(view)]
            transfer.finish(error)
        self.waiting.clear()

    def cancel(self, timeout: float | None = None) -> bool:
        self.deliver(ReadError("the read was cancelled"))
        return True


class Harness:
    """A store with one group, of which each token uses two experts."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.reader = PatientReader()
        self.io = Counters()
        self.experts = Experts()
        reads = MatrixReads(self.reader, self.io, Waiting())
        self.store = ExpertStore([([MATRIX], EXPERTS)], [slots], MATRIX.span, reads, self.experts)

    @property
    def resident(self) -> set[int]:
        return set(self.experts.resident[0])

    def token(self, *experts: int) -> None:
        batch = Batch(0, (0,), (), True, 1, dict.fromkeys(experts, 1))
        seen = []
        for ready in self.store.fetch(batch):
            for expert, (address,) in ready:
                seen.append(expert)
                assert memory(address, MATRIX.nbytes) == bytes([expert]) * MATRIX.nbytes
        assert sorted(seen) == sorted(experts)

    def guess(self, *experts: int) -> None:
        assert self.store.guesses(0, USED) == 4
        self.store.guess(0, experts, 4, cost_s=1e-6)


def test_a_right_guess_is_there_and_counts_as_no_hit() -> None:
    harness = Harness()
    harness.token(0, 1)
    harness.guess(1, 5)
    harness.reader.deliver()
    read = harness.io.read_bytes
    harness.token(1, 5)
    assert harness.io.read_bytes == read
    counters = harness.experts.counters
    assert (counters.wanted, counters.hits) == (4, 1)
    assert (counters.guessed, counters.guessed_right) == (1, 1)


def test_what_was_guessed_wrongly_is_not_read_any_more() -> None:
    harness = Harness()
    harness.guess(8, 9)
    abandoned = harness.reader.waiting[1][0]
    read = harness.io.read_bytes
    batch = Batch(0, (0,), (), True, 1, {8: 1})
    arrivals = harness.store.fetch(batch)
    assert abandoned.error is not None
    assert harness.io.read_bytes == read // 2 == MATRIX.nbytes
    harness.reader.deliver()
    assert [expert for expert, _ in next(arrivals)] == [8]
    harness.token(8, 9)


def test_a_guess_under_way_is_waited_for() -> None:
    harness = Harness()
    harness.guess(5)
    batch = Batch(0, (0,), (), True, 1, {5: 1, 6: 1})
    arrivals = harness.store.fetch(batch)
    assert [expert for expert, _ in next(arrivals)] == [6]
    harness.reader.deliver()
    assert [expert for expert, _ in next(arrivals)] == [5]


def test_the_slot_of_a_read_under_way_goes_to_nobody_else() -> None:
    """Or a late read would write over another expert."""
    harness = Harness()
    harness.guess(8, 9, 10, 11)
    for transfer, _, _ in harness.reader.waiting:
        transfer.begun = True
    for first in range(0, 8, 2):
        harness.token(first, first + 1)
        assert {8, 9, 10, 11} <= harness.resident
    harness.reader.deliver()
    read = harness.io.read_bytes
    harness.token(8, 9)
    assert harness.io.read_bytes == read
    for first in range(0, 8, 2):
        harness.token(first, first + 1)
    assert not {10, 11} & harness.resident


def test_guesses_wait_for_the_ones_before() -> None:
    harness = Harness()
    harness.guess(8, 9)
    assert harness.store.guesses(0, USED) == 0
    harness.reader.deliver()
    assert harness.store.guesses(0, USED) > 0


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_no_more_guesses_than_slots_to_spare(spare: int) -> None:
    harness = Harness(slots=USED + spare)
    assert harness.store.guesses(0, USED) == spare
    harness.store.guess(0, list(range(8, 8 + spare)), spare, cost_s=1e-6)
    for first in range(0, 8, 2):
        harness.token(first, first + 1)


def test_a_guess_does_not_push_out_what_it_expects() -> None:
    harness = Harness(slots=6)
    for experts in ((0, 1), (2, 3), (4, 5)):
        harness.token(*experts)
    harness.guess(0, 9)
    assert {0, 9} <= harness.resident
    harness.reader.deliver()


def test_a_guess_that_failed_is_read_when_it_is_wanted() -> None:
    harness = Harness()
    harness.guess(8)
    harness.reader.deliver(ReadError("the drive failed"))
    harness.token(8, 0)


def test_a_guess_under_way_when_all_stops() -> None:
    harness = Harness()
    harness.guess(8)
    harness.store.stop()
    assert harness.resident == set()
    harness.token(8, 0)
    assert harness.experts.counters.guessed_right == 0


def test_no_slots_are_left_when_all_stops_with_a_guess_under_way() -> None:
    harness = Harness()
    harness.guess(8)
    harness.store.stop()
    harness.store.resize([0], MATRIX.span)
    harness.token(8, 0)


def test_a_wrong_guess_still_under_way_is_read_again_when_it_is_wanted_after_all() -> None:
    harness = Harness()
    harness.guess(8, 9)
    harness.reader.waiting[0][0].begun = True
    harness.token(0, 1)
    assert harness.reader.waiting[0][0].error is None
    assert harness.reader.waiting[1][0].error is not None
    later = threading.Timer(0.05, harness.reader.deliver)
    later.start()
    harness.token(8, 9)
    later.join()


def test_more_experts_than_slots_beside_guesses_under_way() -> None:
    harness = Harness()
    harness.guess(8, 9, 10, 11)
    for transfer, _, _ in harness.reader.waiting:
        transfer.begun = True
    batch = Batch(0, (0,), (), True, 2, dict.fromkeys((0, 1, 2, 3), 1))
    arrived = [expert for ready in harness.store.fetch(batch) for expert, _ in ready]
    assert sorted(arrived) == [0, 1, 2, 3]
    harness.reader.deliver()


def test_an_expert_that_is_named_twice_takes_one_slot() -> None:
    harness = Harness()
    harness.guess(8, 8, 9)
    assert harness.experts.counters.guessed == 2
    harness.reader.deliver()
    for first in range(0, 8, 2):
        harness.token(first, first + 1)
    assert len(harness.resident) == SLOTS


def test_what_was_learned_outlives_a_release() -> None:
    harness = Harness()
    harness.token(0, 1)
    guessing = harness.experts.guessing
    reads = MatrixReads(harness.reader, harness.io, Waiting())
    harness.store = ExpertStore([([MATRIX], EXPERTS)], [SLOTS], MATRIX.span, reads, harness.experts)
    assert harness.resident == set()
    harness.token(0, 1)
    assert harness.experts.counters.wanted == 4
    assert harness.experts.guessing is guessing
