"""The stream over a reader in memory: what is read when, what is kept, what comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.addresses import memory
from support.faulty_reader import FaultyReader, LateReader, fails, hangs

from flexinfer.errors import ReadError
from flexinfer.reading.memory_reader import MemoryReader
from flexinfer.reading.waiting import Waiting
from flexinfer.seam import Packing, Part
from flexinfer.storage.locked import LockedSet
from flexinfer.storage.stream import Stream

BLOCK = 8192
BLOB = bytes(i // BLOCK for i in range(16 * BLOCK))


class Bench:
    """A stream of parts of `BLOB`: part number k holds bytes of value k."""

    def __init__(
        self, window: int, *, lookahead: bool = True, reader: MemoryReader | None = None
    ) -> None:
        self.reader = reader or MemoryReader([BLOB])
        self.locked = LockedSet(len(BLOB))
        self.packing: Packing | None = None
        self.waiting = Waiting(hang_s=0.02, cancel_s=0.01)
        self.stream = Stream(
            self.reader, self.locked, window, lookahead=lookahead, waiting=self.waiting
        )

    def part(self, number: int, *, locked: bool = False) -> Part:
        return Part(f"w{number}", 0, number * BLOCK, BLOCK, 0, 8, locked, self.packing)

    @property
    def state(self) -> tuple[str, str]:
        return repr(self.stream), repr(self.locked)

    def value(self, index: int) -> int:
        content = memory(self.stream.acquire(index), BLOCK)
        assert content == content[:1] * BLOCK
        return content[0]


@pytest.fixture
def small() -> Iterator[Bench]:
    bench = Bench(4 * BLOCK)
    yield bench
    bench.stream.close()
    bench.reader.close()


def run(bench: Bench, sequence: list[Part]) -> list[int]:
    bench.stream.begin(sequence)
    values = []
    for index in range(len(sequence)):
        values.append(bench.value(index))
        bench.stream.release(index + 1)
    return values


def test_a_pass_longer_than_the_window(small: Bench) -> None:
    parts = [small.part(k) for k in range(12)]
    assert run(small, parts) == list(range(12))
    assert run(small, parts) == list(range(12))


def test_what_passes_through_is_told_by_weight(small: Bench) -> None:
    assert small.stream.passing == []
    parts = [small.part(k, locked=k == 1) for k in range(12)]
    small.stream.begin(parts)
    assert small.stream.passing == [(f"w{k}", BLOCK) for k in (0, 2, 3, 4)]
    small.value(0)
    small.stream.release(1)
    assert small.stream.passing == [(f"w{k}", BLOCK) for k in (2, 3, 4, 5)]
    small.stream.stop()
    assert small.stream.passing == []


def test_reads_run_on_into_the_next_pass(small: Bench) -> None:
    parts = [small.part(k) for k in range(12)]
    run(small, parts)
    read = small.stream.counters.read_bytes
    assert read > 12 * BLOCK
    small.stream.begin(parts)
    assert small.stream.counters.read_bytes == read, "what ran ahead was kept"


def test_another_sequence_drops_what_does_not_fit_it(small: Bench) -> None:
    run(small, [small.part(k) for k in range(8)])
    assert run(small, [small.part(k) for k in (9, 3, 9, 1)]) == [9, 3, 9, 1]


def test_locked_parts_are_read_once_and_stay(small: Bench) -> None:
    parts = [small.part(k, locked=k % 2 == 0) for k in range(8)]
    assert run(small, parts) == list(range(8))
    held = {part.name: part.address for part in parts if part.locked}
    assert all(held.values())
    assert run(small, parts) == list(range(8))
    assert {part.name: part.address for part in parts if part.locked} == held
    assert not any(part.address for part in parts if not part.locked)


def test_without_lookahead_nothing_is_read_before_it_is_acquired() -> None:
    bench = Bench(4 * BLOCK, lookahead=False)
    parts = [bench.part(k) for k in range(6)]
    bench.stream.begin(parts)
    assert bench.stream.counters.read_bytes == 0
    assert bench.value(0) == 0
    assert bench.stream.counters.read_bytes == BLOCK
    bench.stream.release(1)
    assert not bench.stream.ready(1)
    bench.stream.close()
    bench.reader.close()


def test_a_step_that_needs_more_than_the_window_is_refused(small: Bench) -> None:
    small.stream.begin([small.part(k) for k in range(6)])
    for index in range(4):
        small.stream.acquire(index)
    with pytest.raises(ReadError, match=r"w4: the window of \d+ bytes is too small"):
        small.stream.acquire(4)


def test_after_a_stop_the_next_pass_starts_clean(small: Bench) -> None:
    parts = [small.part(k, locked=k == 2) for k in range(8)]
    small.stream.begin(parts)
    assert small.value(0) == 0
    small.stream.stop()
    assert run(small, parts) == list(range(8))


# -- what it holds after each step -----------------------------------------------------------------


def ring(places: int) -> str:
    return f"<Ring {places * BLOCK} of {4 * BLOCK} bytes in {places} places>"


def stream(places: int, loads: int, first: int) -> str:
    return f"<Stream <Window {ring(places)}> {loads} loads from {first}>"


def locked(parts: int, arrived: int, behind: int = 0) -> str:
    left = f", {behind} places left behind" if behind else ""
    return f"<LockedSet {parts} parts, {arrived * BLOCK} bytes{left}>"


def test_what_is_held_after_each_step(small: Bench) -> None:
    parts = [small.part(k, locked=k == 1) for k in range(6)]
    assert small.state == (stream(0, 0, 0), locked(0, 0))
    small.stream.begin(parts)
    assert small.state == (stream(4, 5, 0), locked(1, 0)), "ahead until the ring is full"
    small.value(0)
    assert small.state == (stream(4, 5, 0), locked(1, 0))
    small.stream.release(1)
    assert small.state == (stream(4, 5, 1), locked(1, 0))
    small.value(1)
    assert small.state == (stream(4, 5, 1), locked(1, 1)), "what is to stay arrived"
    for index in range(2, 6):
        small.value(index)
        small.stream.release(index + 1)
    assert small.state == (stream(4, 5, 6), locked(1, 1)), "ahead into the next pass"
    small.stream.begin(parts)
    assert small.state == (stream(4, 5, 0), locked(1, 1))
    small.stream.stop()
    assert small.state == (stream(0, 0, 0), locked(1, 1))
    small.stream.close()
    small.locked.close()
    assert small.state == (stream(0, 0, 0), locked(0, 0))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_what_is_held_after_a_read_that_failed(lost: int) -> None:
    bench = Bench(4 * BLOCK, reader=FaultyReader([BLOB], {lost: fails()}))
    parts = [bench.part(k, locked=k == 1) for k in range(6)]
    with pytest.raises(ReadError, match="the drive failed"):
        run(bench, parts)
    # The locked part takes no room of the ring.
    assert bench.state == (stream(4, 4 + (lost < 2), lost), locked(1, int(lost > 1)))
    bench.stream.stop()
    assert bench.state == (stream(0, 0, lost), locked(int(lost > 1), int(lost > 1)))
    assert run(bench, parts) == list(range(6))
    assert bench.state == (stream(4, 5, 6), locked(1, 1))
    bench.stream.close()


def test_what_is_held_after_a_wait_that_was_stopped() -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    bench = Bench(4 * BLOCK, reader=FaultyReader([BLOB], {1: hangs(), 2: hangs()}))
    bench.waiting.check = stop
    parts = [bench.part(k, locked=k == 1) for k in range(6)]
    bench.stream.begin(parts)
    bench.value(0)
    with pytest.raises(Stopped):
        bench.value(1)
    assert bench.state == (stream(4, 5, 0), locked(1, 0))
    bench.stream.stop()
    assert bench.state == (stream(0, 0, 0), locked(0, 0)), "no read is under way any more"
    assert run(bench, parts) == list(range(6))
    bench.stream.close()


class Doubled:
    """A packing by which each byte is doubled where it lies."""

    buffer = extra = 1

    def pack(self, address: int, nbytes: int) -> None:
        import ctypes

        content = memory(address, nbytes)
        ctypes.memmove(address, bytes(2 * byte for byte in content), nbytes)


@pytest.fixture(params=["who reads", "who waits"])
def late(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The second and the third read hang until they answer."""
    bench = Bench(4 * BLOCK, reader=LateReader([BLOB], {1, 2}))
    bench.packing = Doubled()
    bench.waiting.treats = request.param == "who waits"
    yield bench
    bench.stream.close()
    bench.locked.close()


def hang(bench: Bench) -> list[Part]:
    """A pass in which the locked part number 1 and the streamed number 2 do not arrive."""
    parts = [bench.part(k, locked=k == 1) for k in range(6)]
    bench.stream.begin(parts)
    assert bench.value(0) == 0
    with pytest.raises(ReadError, match="did not answer"):
        bench.value(1)
    bench.stream.stop()
    assert bench.state == (stream(0, 0, 0), locked(0, 0, 1))
    return parts


def test_a_late_answer_changes_nothing_that_was_read_meanwhile(late: Bench) -> None:
    parts = hang(late)
    late.stream.begin(parts)
    values = [late.value(index) for index in range(3)]
    late.reader.answer()  # type: ignore[attr-defined]
    assert values == [0, 2, 4]
    assert [late.value(index) for index in range(3)] == values
    late.stream.release(3)
    assert [late.value(index) for index in range(3, 6)] == [6, 8, 10]
    assert memory(parts[1].address, BLOCK) == bytes([2]) * BLOCK
    late.locked.arrange([])
    assert repr(late.locked) == locked(1, 1), "its place is a hole again"


def test_a_late_answer_after_the_plan_changed_hits_nobody(late: Bench) -> None:
    (_, gone, *_) = hang(late)
    late.locked.forget(gone)
    other = late.part(5, locked=True)
    late.locked.arrange([(other, BLOCK)])
    assert run(late, [other]) == [10]
    late.reader.answer()  # type: ignore[attr-defined]
    assert memory(other.address, BLOCK) == bytes([10]) * BLOCK


def test_no_room_is_left_beside_a_read_that_hangs(late: Bench) -> None:
    """The arena ends with what hangs: a clear error, and all is well once the drive answers."""
    late.locked = LockedSet(2 << 20)
    late.stream = Stream(late.reader, late.locked, 4 * BLOCK, lookahead=True, waiting=late.waiting)
    (_, one, *_) = hang(late)
    rest = (2 << 20) - BLOCK
    other = Part("other", 0, 0, rest, 0, 8, locked=True)
    late.locked.arrange([(other, rest), (one, BLOCK)])
    with pytest.raises(ReadError, match="w1: its memory still waits for a drive"):
        run(late, [one])
    late.reader.answer()  # type: ignore[attr-defined]
    assert run(late, [one]) == [2]


def test_reads_go_on_with_what_follows(small: Bench) -> None:
    first, second = [small.part(0)], [small.part(5), small.part(6)]
    small.stream.begin(first, [*second, *first])
    assert small.value(0) == 0
    small.stream.release(1)
    read = small.stream.counters.read_bytes
    assert read == 4 * BLOCK, "the window is full: both, and the first again"
    small.stream.begin(second, [*first, *second])
    assert small.stream.counters.read_bytes == read + BLOCK, "nothing again, and one more"
    assert [small.value(0), small.value(1)] == [5, 6]


def test_a_graph_without_loads_keeps_what_follows_it(small: Bench) -> None:
    second = [small.part(1), small.part(2)]
    small.stream.begin(second, second)
    assert [small.value(0), small.value(1)] == [1, 2]
    small.stream.release(2)
    read = small.stream.counters.read_bytes
    small.stream.begin([], second)
    assert small.stream.counters.read_bytes == read
    small.stream.begin(second, [])
    assert [small.value(0), small.value(1)] == [1, 2]
    assert small.stream.counters.read_bytes == read


class Refused(Doubled):
    """A packing that finds the third part unusable."""

    def pack(self, address: int, nbytes: int) -> None:
        if memory(address, 1) == b"\2":
            raise ValueError("no such rows")
        super().pack(address, nbytes)


@pytest.mark.parametrize("treats", [False, True], ids=["who reads", "who waits"])
def test_each_part_is_packed_once_whoever_does_it(treats: bool) -> None:
    bench = Bench(4 * BLOCK)
    bench.packing, bench.waiting.treats = Doubled(), treats
    one = bench.part(3, locked=True)
    parts = [bench.part(1), one, bench.part(2), one]
    assert run(bench, parts) == [2, 6, 4, 6]
    assert run(bench, parts) == [2, 6, 4, 6]
    assert (bench.stream.counters.treating_s > 0) == treats
    bench.stream.close()


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("treats", [False, True], ids=["who reads", "who waits"])
def test_what_cannot_be_packed_is_an_error_and_is_read_again(treats: bool, locked: bool) -> None:
    bench = Bench(4 * BLOCK)
    bench.packing, bench.waiting.treats = Refused(), treats
    parts = [bench.part(k, locked=locked) for k in range(4)]
    bench.stream.begin(parts)
    assert [bench.value(0), bench.value(1)] == [0, 2]
    with pytest.raises(ReadError, match="what was read cannot be used: no such rows"):
        bench.value(2)
    bench.stream.stop()
    for part in parts:
        part.packing = Doubled()
    assert run(bench, parts) == [0, 2, 4, 6]
    bench.stream.close()
