"""Several drives with one model: who reads what, who is left aside, and when."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.read_bytes import DATA, PIECE, load

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.drive import Drive, open_drive
from flexinfer.reading.drives import Drives
from flexinfer.reading.file_reader import FileReader, read_from
from flexinfer.reading.reader import DriveUse

pytestmark = pytest.mark.usefixtures("no_leaks")
MIB = 1 << 20


class Faults:
    """What reads of each of two files do, by the file's number; None: what they do else."""

    def __init__(self) -> None:
        self.of: dict[int, Callable[[int], None]] = {}
        self.reads: list[int] = []


class Pair:
    """A reader of two drives, with what it said."""

    def __init__(self, paths: list[Path], faults: Faults) -> None:
        self.said: list[str] = []
        self.faults = faults
        self.paths = paths
        self.reader: FileReader = read_from(
            (open_drive([path], threads=2, piece=PIECE) for path in paths), lost=self.said.append
        )
        self.fds = [drive.files[0].fd for drive in self.reader._drives.all]

    def fails(self, number: int, after: int = 0) -> None:
        """From the read after so many on, the drive answers with EIO."""
        seen = [0]

        def fault(_: int) -> None:
            seen[0] += 1
            if seen[0] > after:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.faults.of[self.fds[number]] = fault

    def hangs(self, number: int) -> threading.Event:
        """Reads of the drive wait for the event."""
        answer = threading.Event()
        self.faults.of[self.fds[number]] = lambda _: _wait(answer)
        return answer


def _wait(event: threading.Event) -> None:
    assert event.wait(20)


@pytest.fixture
def pair(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    faults = Faults()
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        faults.reads.append(fd)
        if fd in faults.of:
            faults.of[fd](offset)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    other = path.with_name("copy.bin")
    shutil.copy(path, other)
    pair = Pair([path, other], faults)
    faults.reads.clear()
    yield pair
    pair.reader.close()


def test_both_drives_give_their_part(pair: Pair, arena: Arena) -> None:
    for _ in range(5):
        transfer, view = load(pair.reader, arena, 7, len(DATA) - 7)
        assert transfer.error is None
        assert view == DATA[7:]
    uses = pair.reader.drives
    assert [use.path for use in uses] == [str(path) for path in pair.paths]
    assert all(use.bytes_read > 0 for use in uses)
    assert sum(use.bytes_read for use in uses) == pair.reader.bytes_read >= 5 * (len(DATA) - 7)
    assert not pair.said


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("after", [0, 3])
def test_a_drive_that_fails_is_left_aside(
    pair: Pair, arena: Arena, number: int, after: int
) -> None:
    pair.fails(number, after)
    for _ in range(4):
        transfer, view = load(pair.reader, arena, 0, len(DATA))
        assert transfer.error is None
        assert view == DATA
    assert len(pair.said) == 1
    assert pair.said[0].startswith(
        f"{pair.paths[number]} is left aside, {pair.paths[1 - number]} goes on: "
    )
    assert "Input/output error" in pair.said[0]
    lost, kept = pair.reader.drives[number], pair.reader.drives[1 - number]
    assert "Input/output error" in str(lost.failure)
    assert kept.failure is None
    pair.faults.reads.clear()
    load(pair.reader, arena, 0, len(DATA))
    assert set(pair.faults.reads) == {pair.fds[1 - number]}


def test_the_last_drive_is_not_left_aside(pair: Pair, arena: Arena) -> None:
    pair.fails(0)
    pair.fails(1)
    transfer, _ = load(pair.reader, arena, 0, len(DATA))
    assert "Input/output error" in str(transfer.error)
    assert len(pair.said) == 1
    assert sum(use.failure is None for use in pair.reader.drives) == 1
    pair.faults.of.clear()
    transfer, view = load(pair.reader, arena, 0, len(DATA))
    assert transfer.error is None
    assert view == DATA


def test_small_reads_go_to_another_drive(pair: Pair) -> None:
    pair.fails(0)
    target = bytearray(1000)
    pair.reader.read_into(0, 123, memoryview(target))
    assert target == DATA[123:1123]
    assert len(pair.said) == 1
    pair.fails(1)
    with pytest.raises(ReadError, match=r"copy\.bin.*Input/output error"):
        pair.reader.read_into(0, 123, memoryview(target))


def test_a_mirror_that_was_cut_short_is_left_aside(pair: Pair, arena: Arena) -> None:
    os.truncate(pair.paths[1], 4096)
    pair.reader.check()
    assert len(pair.said) == 1
    assert "had 3000123 bytes and has 4096 now" in pair.said[0]
    assert load(pair.reader, arena, 0, len(DATA))[1] == DATA
    os.truncate(pair.paths[0], 4096)
    with pytest.raises(ReadError, match="has 4096 now"):
        pair.reader.check()


def test_a_deleted_mirror_is_read_as_long_as_it_is_open(pair: Pair, arena: Arena) -> None:
    pair.paths[1].unlink()
    pair.paths[1].write_bytes(b"another")
    pair.reader.check()
    assert load(pair.reader, arena, 0, len(DATA))[1] == DATA
    assert not pair.said


def test_a_drive_that_hangs_is_left_aside_when_told(pair: Pair, arena: Arena) -> None:
    answer = pair.hangs(1)
    stuck = pair.reader.start(0, 0, arena.view(0, 2 * MIB), 2 * MIB)
    assert not stuck.wait(0.2)
    assert pair.reader.leave_hanging(stuck)
    assert "does not answer" in pair.said[0]
    assert not pair.reader.cancel(5)
    assert not stuck.done
    # Asked again about the same transfer: it is known who owes it.
    assert pair.reader.leave_hanging(stuck)
    again = pair.reader.start(0, 0, arena.view(2 * MIB, MIB), MIB)
    assert again.wait(10)
    assert again.error is None
    assert arena.view(2 * MIB, MIB) == DATA[:MIB]
    assert not pair.reader.leave_hanging(again)
    answer.set()
    assert stuck.wait(10)
    assert len(pair.said) == 1


def test_a_listener_that_fails_costs_no_read(pair: Pair, arena: Arena) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("no standard error")

    pair.reader._drives._lost = fail
    pair.fails(0)
    transfer, view = load(pair.reader, arena, 0, len(DATA))
    assert transfer.error is None
    assert view == DATA


def test_pieces_that_come_back_after_the_end_are_over(pair: Pair, arena: Arena) -> None:
    answer = threading.Event()

    def late(_: int) -> None:
        _wait(answer)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    pair.faults.of = dict.fromkeys(pair.fds, late)
    transfer = pair.reader.start(0, 0, arena.view(0, 2 * MIB), 2 * MIB)
    assert not transfer.wait(0.1)
    threading.Timer(0.1, answer.set).start()
    pair.reader.close()
    assert transfer.wait(10)
    assert transfer.error is not None


# -- who takes how much ----------------------------------------------------------------------------


def drives(*rates: float) -> Drives:
    return Drives([Drive([], threads=4, piece=4 * MIB, rate=rate) for rate in rates], print)


def test_one_drive_takes_all_of_a_piece() -> None:
    only = drives(300e6)
    assert only.portion(only.all[0], MIB, 4 * MIB) == 4 * MIB


@pytest.mark.parametrize("outstanding", [12 * MIB, 24 * MIB])
def test_reads_of_all_drives_take_as_long(outstanding: int) -> None:
    both = drives(300e6, 150e6)
    fast, slow = (both.portion(drive, outstanding, 4 * MIB) for drive in both.all)
    assert fast == pytest.approx(2 * slow, rel=0.01)
    assert fast * both.all[0].pace == pytest.approx(outstanding / 450e6 / 2, rel=0.01)


def test_portions_are_whole_and_bounded() -> None:
    both = drives(300e6, 200e6)
    for outstanding in (4 * MIB, 7_654_321, 1 << 30):
        for drive in both.all:
            portion = both.portion(drive, outstanding, 4 * MIB)
            assert portion % 4096 == 0
            assert 512 << 10 <= portion <= 4 * MIB
    assert both.portion(both.all[0], MIB, 10_000) == 10_000


def test_a_slow_drive_leaves_the_end_to_a_faster_one() -> None:
    both = drives(1000e6, 20e6)
    fast, slow = both.all
    assert both.portion(slow, 8 * MIB, 4 * MIB) == 0
    assert both.portion(slow, 512 * MIB, 4 * MIB) > 0
    assert both.portion(fast, 4096, 4 * MIB) > 0
    assert both.leave_aside(fast, ReadError("gone"))
    assert both.portion(slow, 4096, 4 * MIB) == 4 * MIB


def test_a_pace_follows_what_reads_take() -> None:
    drive = Drive([], threads=4, piece=4 * MIB, rate=400e6)
    assert drive.rate == pytest.approx(400e6)
    for _ in range(60):
        drive.note(MIB, MIB / 25e6, 0.5)
    assert drive.rate == pytest.approx(100e6, rel=0.01)
    assert drive.bytes_read == 60 * MIB
    assert drive.use == DriveUse("", 60 * MIB, cpu_s=30.0)
