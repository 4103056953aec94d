from __future__ import annotations

import errno
import fcntl
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.faulty_reader import FaultyReader, fails, hangs

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.file_reader import FileReader, open_reader
from flexinfer.reading.memory_reader import MemoryReader
from flexinfer.reading.open_file import Access, OpenFile, cached_fraction
from flexinfer.reading.reader import Reader, Transfer

pytestmark = pytest.mark.usefixtures("no_leaks")

SIZE = 3_000_123
DATA = bytes(os.urandom(SIZE))
PIECE = 64 << 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    with path.open("wb") as file:
        file.write(DATA)
        file.flush()
        os.fsync(file.fileno())
    return path


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(4 << 20)
    yield arena
    arena.close()


@pytest.fixture(params=["direct", "clean", "cached", "memory"])
def reader(
    request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    if request.param == "clean":
        refuse_direct(monkeypatch)
    if request.param == "memory":
        reader: Reader = MemoryReader([DATA])
    else:
        files = open_reader([path], cached=request.param == "cached", threads=3, piece=PIECE)
        assert files.files[0].access is Access[request.param.upper()]
        reader = files
    yield reader
    reader.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Reads of pieces wait until the gate opens; what is said under `entered` runs already."""
    gate = Gate()
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        gate.entered.release()
        assert gate.opened.wait(10)
        return real(fd, buffers, offset)

    gate.arm = lambda: monkeypatch.setattr(os, "preadv", preadv)
    yield gate
    gate.opened.set()


class Gate:
    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.arm: Callable[[], None] = lambda: None


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refusing)


def load(
    reader: Reader, arena: Arena, offset: int, length: int, file: int = 0
) -> tuple[Transfer, memoryview]:
    start, stop = reader.span(file, offset, length)
    view = arena.view(0, stop - start)
    transfer = reader.start(file, start, view, offset + length - start)
    assert transfer.wait(10)
    return transfer, view[offset - start : offset - start + length]


# -- every reader ------------------------------------------------------------------------------


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_gives_the_same_bytes(reader: Reader, arena: Arena, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, SIZE - 1))
    length = data.draw(st.integers(1, SIZE - offset))
    transfer, view = load(reader, arena, offset, length)
    assert transfer.error is None
    assert view == DATA[offset : offset + length]


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_small_reads_need_no_alignment(reader: Reader, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, SIZE - 1))
    target = bytearray(data.draw(st.integers(1, min(SIZE - offset, 600_000))))
    reader.read_into(0, offset, memoryview(target))
    assert target == DATA[offset : offset + len(target)]


def test_last_byte(reader: Reader, arena: Arena) -> None:
    transfer, view = load(reader, arena, SIZE - 1, 1)
    assert transfer.error is None
    assert bytes(view) == DATA[-1:]


def test_past_the_end_is_an_error_and_reading_goes_on(reader: Reader, arena: Arena) -> None:
    transfer, _ = load(reader, arena, SIZE - 10, 11)
    assert isinstance(transfer.error, ReadError)
    assert str(SIZE) in str(transfer.error)
    with pytest.raises(ReadError, match=str(SIZE)):
        reader.read_into(0, SIZE - 10, memoryview(bytearray(11)))
    again, view = load(reader, arena, 5, 100)
    assert again.error is None
    assert view == DATA[5:105]


def test_unaligned_ranges_are_refused(reader: Reader, arena: Arena) -> None:
    for start, length, need in [(1, 4096, 1), (0, 100, 100), (0, 4096, 4097), (0, 4096, 0)]:
        with pytest.raises(ValueError, match="aligned"):
            reader.start(0, start, arena.view(0, length), need)


def test_counters(reader: Reader, arena: Arena) -> None:
    before = reader.bytes_read
    load(reader, arena, 0, 1 << 20)
    assert reader.bytes_read - before == 1 << 20
    busy = reader.busy_s
    assert busy > 0
    assert reader.busy_s == busy


def test_closed_reader_refuses(reader: Reader, arena: Arena) -> None:
    reader.check()
    reader.close()
    reader.close()
    assert "closed" in repr(reader)
    with pytest.raises(ReadError, match="closed"):
        reader.read_into(0, 0, memoryview(bytearray(1)))
    with pytest.raises(ReadError, match="closed"):
        reader.start(0, 0, arena.view(0, 4096), 1)


# -- files -------------------------------------------------------------------------------------


def test_missing_file_leaves_nothing_open(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no-such"):
        open_reader([path, tmp_path / "no-such"])


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="directory"):
        open_reader([tmp_path])


def test_several_files(path: Path, tmp_path: Path, arena: Arena) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x" * 5000)
    reader = open_reader([path, other])
    assert load(reader, arena, 100, 200, file=1)[1] == b"x" * 200
    assert load(reader, arena, 100, 200)[1] == DATA[100:300]
    reader.close()


def test_refused_direct_reads_are_buffered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def refusing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refusing)
    file = OpenFile(path)
    assert file.access is Access.CLEAN
    file.close()


@pytest.mark.parametrize("how", ["direct", "clean"])
def test_page_cache_stays_clean(
    path: Path, arena: Arena, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "clean":
        refuse_direct(monkeypatch)
    drop_cache(path)
    reader = open_reader([path], piece=PIECE)
    load(reader, arena, 0, SIZE)
    reader.close()
    monkeypatch.undo()
    assert cached_fraction([path]) == pytest.approx(0.0, abs=0.1)


def test_cached_reads_fill_the_page_cache(path: Path, arena: Arena) -> None:
    drop_cache(path)
    assert cached_fraction([path]) == 0.0
    assert cached_fraction([path]) < 0.5  # asking does not fill it either
    reader = open_reader([path], cached=True)
    load(reader, arena, 0, SIZE)
    reader.close()
    assert cached_fraction([path]) == 1.0
    assert cached_fraction([]) == 0.0


def drop_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def test_check_sees_truncation_and_writing(path: Path) -> None:
    reader = open_reader([path])
    reader.check()
    os.utime(path, ns=(0, 1))
    with pytest.raises(ReadError, match="written to"):
        reader.check()
    os.truncate(path, 10)
    with pytest.raises(ReadError, match=f"had {SIZE} bytes and has 10"):
        reader.check()
    reader.close()


def test_truncated_while_open(path: Path, arena: Arena) -> None:
    reader = open_reader([path], piece=PIECE)
    os.truncate(path, 100_000)
    transfer, _ = load(reader, arena, 0, 1 << 20)
    assert "truncated" in str(transfer.error)
    assert str(path) in str(transfer.error)
    reader.close()


# -- failures ----------------------------------------------------------------------------------


def failing(
    monkeypatch: pytest.MonkeyPatch, number: int, times: int, at: int | None = None
) -> list[int]:
    """The next `times` reads (at offset `at`) fail with errno `number`; counts the attempts."""
    real = os.preadv
    seen: list[int] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if at is None or offset == at:
            seen.append(offset)
            if len(seen) <= times:
                raise OSError(number, os.strerror(number))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    return seen


def test_io_errors_are_tried_again(
    path: Path, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader([path], piece=PIECE)
    seen = failing(monkeypatch, errno.EIO, 2, at=PIECE)
    transfer, view = load(reader, arena, 0, 4 * PIECE)
    assert transfer.error is None
    assert view == DATA[: 4 * PIECE]
    assert seen == [PIECE] * 3
    reader.close()


def test_lasting_io_error_names_place_and_cause(
    path: Path, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader([path], piece=PIECE)
    seen = failing(monkeypatch, errno.EIO, 3, at=PIECE)
    transfer, _ = load(reader, arena, 0, 4 * PIECE)
    assert seen == [PIECE] * 3
    assert isinstance(transfer.error, ReadError)
    assert f"{path}: reading {PIECE} bytes at {PIECE} failed" in str(transfer.error)
    assert isinstance(transfer.error.__cause__, OSError)
    assert load(reader, arena, 0, 4 * PIECE)[0].error is None
    reader.close()


@pytest.fixture
def plain(path: Path) -> Iterator[int]:
    """A descriptor of the file that knows no alignment, as a network file system's."""
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def shorten(monkeypatch: pytest.MonkeyPatch, plain: int, most: int, nothing: int = 0) -> list[int]:
    """Reads give at most `most` bytes, and every so many of them none; the counts."""
    seen: list[int] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if nothing and len(seen) % nothing == nothing - 1:
            seen.append(0)
        else:
            seen.append(os.preadv_(plain, [buffers[0][:most]], offset))  # type: ignore[attr-defined]
        return seen[-1]

    monkeypatch.setattr(os, "preadv_", os.preadv, raising=False)
    monkeypatch.setattr(os, "preadv", preadv)
    return seen


@pytest.mark.parametrize("how", ["direct", "clean"])
@pytest.mark.parametrize(("most", "nothing"), [(1_001, 0), (4_095, 0), (60_001, 0), (4_097, 5)])
def test_a_read_that_stops_anywhere_is_continued(
    path: Path,
    plain: int,
    arena: Arena,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    most: int,
    nothing: int,
) -> None:
    """As network file systems answer: the end of the file is told by its size alone."""
    if how == "clean":
        refuse_direct(monkeypatch)
    reader = open_reader([path], piece=PIECE, threads=1)  # no thread gets all the empty ones
    seen = shorten(monkeypatch, plain, most, nothing)
    for offset, length in ((0, 3 * PIECE), (SIZE - PIECE - 11, PIECE + 11), (SIZE - 1, 1)):
        transfer, view = load(reader, arena, offset, length)
        assert transfer.error is None
        assert view == DATA[offset : offset + length]
    target = bytearray(5_000)
    reader.read_into(0, 1_234, memoryview(target))
    assert target == DATA[1_234:6_234]
    assert any(count % 4096 for count in seen)
    reader.close()


def test_the_end_of_a_file_is_told_by_its_size(
    path: Path, plain: int, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader([path], piece=PIECE)
    seen = shorten(monkeypatch, plain, 1_001)
    os.truncate(path, 3_000)
    transfer, _ = load(reader, arena, 0, PIECE)
    assert "ends at byte 3000" in str(transfer.error)
    assert seen == [1_001, 1_001, 998]
    reader.close()


def test_a_mount_that_gives_nothing_is_not_called_truncated(
    path: Path, plain: int, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader([path], piece=PIECE)
    shorten(monkeypatch, plain, 4_096, nothing=1)
    transfer, _ = load(reader, arena, 0, PIECE)
    assert f"no bytes come from byte 0 on, though the file has {SIZE}" in str(transfer.error)
    assert "check the drive or the mount" in str(transfer.error)
    reader.close()


def test_wrong_arguments_are_not_tried_again(
    path: Path, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader([path], piece=PIECE)
    seen = failing(monkeypatch, errno.EINVAL, 9)
    transfer, _ = load(reader, arena, 0, 10)
    assert len(seen) == 1
    assert transfer.error is not None
    reader.close()


def test_unexpected_exception_ends_the_transfer_only(
    path: Path, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader([path], threads=1)
    monkeypatch.setattr(OpenFile, "read", lambda *_: 1 // 0)
    transfer, _ = load(reader, arena, 0, 10)
    assert isinstance(transfer.error, ReadError)
    assert isinstance(transfer.error.__cause__, ZeroDivisionError)
    monkeypatch.undo()
    assert load(reader, arena, 0, 10)[0].error is None
    reader.close()


def test_short_reads_are_continued(
    path: Path, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, b, offset: real(fd, [b[0][:4096]], offset))
    reader = open_reader([path], piece=PIECE)
    assert load(reader, arena, 0, SIZE)[1] == DATA
    reader.close()


# -- order, waiting, cancelling ------------------------------------------------------------------


def test_pieces_of_one_transfer_go_to_all_threads_first(
    path: Path, arena: Arena, gate: Gate
) -> None:
    reader = open_reader([path], threads=4, piece=PIECE)
    gate.arm()
    first = reader.start(0, 0, arena.view(0, 4 * PIECE), 4 * PIECE)
    second = reader.start(0, 0, arena.view(8 * PIECE, PIECE), PIECE)
    for _ in range(4):
        assert gate.entered.acquire(timeout=10)
    assert not gate.entered.acquire(timeout=0.05)
    assert not first.done
    assert not second.wait(0.0)
    gate.opened.set()
    assert first.wait(10)
    assert second.wait(10)
    reader.close()


def test_an_urgent_transfer_overtakes_those_that_wait(path: Path, arena: Arena, gate: Gate) -> None:
    reader = open_reader([path], threads=1, piece=PIECE)
    gate.arm()
    first, later = (reader.start(0, 0, arena.view(0, PIECE), PIECE) for _ in range(2))
    assert gate.entered.acquire(timeout=10)
    urgent = reader.start(0, 0, arena.view(8 * PIECE, PIECE), PIECE, urgent=True)
    order: list[str] = []
    names = {id(first): "first", id(later): "later", id(urgent): "urgent"}
    finish = Transfer.finish

    def finished(transfer: Transfer, error: ReadError | None = None) -> None:
        order.append(names[id(transfer)])
        finish(transfer, error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transfer, "finish", finished)
        gate.opened.set()
        assert later.wait(10)
    assert order == ["first", "urgent", "later"]
    reader.close()


def test_what_is_abandoned_before_it_begins_is_not_read(
    path: Path, arena: Arena, gate: Gate
) -> None:
    reader = open_reader([path], threads=1, piece=PIECE)
    gate.arm()
    views = [arena.view(number * PIECE, PIECE) for number in range(3)]
    views[1][:] = b"\7" * PIECE
    first, abandoned, wanted = (reader.start(0, 0, view, PIECE) for view in views)
    assert gate.entered.acquire(timeout=10)
    assert [first.begun, abandoned.begun, wanted.begun] == [True, False, False]
    abandoned.abandon()
    assert not abandoned.done
    gate.opened.set()
    assert wanted.wait(10)
    assert (first.error, wanted.error) == (None, None)
    assert abandoned.done
    assert "nobody wants" in str(abandoned.error)
    assert not abandoned.begun
    reader.close()
    memory = arena.view(0, 3 * PIECE)
    assert memory[:PIECE] == memory[2 * PIECE :] == DATA[:PIECE]
    assert memory[PIECE : 2 * PIECE] == b"\7" * PIECE


def test_what_is_there_cannot_be_abandoned(path: Path, arena: Arena) -> None:
    reader = open_reader([path])
    transfer, _ = load(reader, arena, 0, 10)
    transfer.abandon()
    assert transfer.error is None
    reader.close()


def test_wait_says_no_when_it_takes_too_long(path: Path, arena: Arena, gate: Gate) -> None:
    reader = open_reader([path])
    gate.arm()
    transfer = reader.start(0, 0, arena.view(0, 4096), 4096)
    assert not transfer.wait(0.02)
    assert not transfer.wait(-1.0)
    assert "under way" in repr(transfer)
    assert not reader.cancel(0.02)
    gate.opened.set()
    assert transfer.wait()
    assert "cancelled" in str(transfer.error)
    assert reader.cancel()
    reader.close()


def test_many_threads_wait_for_one_transfer(path: Path, arena: Arena, gate: Gate) -> None:
    reader = open_reader([path])
    gate.arm()
    transfer = reader.start(0, 0, arena.view(0, 4096), 4096)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(transfer.wait(10))) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert answers == [True] * 5
    reader.close()


def test_cancel_drops_what_is_queued_and_waits_for_what_runs(
    path: Path, arena: Arena, gate: Gate
) -> None:
    reader = open_reader([path], threads=2, piece=PIECE)
    load(reader, arena, 0, 10)
    gate.arm()
    before = reader.bytes_read
    transfers = [reader.start(0, 0, arena.view(0, 8 * PIECE), 8 * PIECE) for _ in range(5)]
    for _ in range(2):
        assert gate.entered.acquire(timeout=10)
    threading.Timer(0.05, gate.opened.set).start()
    assert reader.cancel()
    assert all(transfer.done for transfer in transfers)
    assert all("cancelled" in str(transfer.error) for transfer in transfers)
    assert reader.bytes_read - before == 2 * PIECE
    assert load(reader, arena, 7, 100)[1] == DATA[7:107]
    reader.close()


def test_cancelled_transfers_write_nothing_any_more(path: Path, arena: Arena) -> None:
    reader = open_reader([path], threads=4, piece=4096)
    for _ in range(20):
        transfer = reader.start(0, 0, arena.view(0, 2 << 20), 2 << 20)
        assert reader.cancel()
        assert transfer.done
        memory = arena.view(0, 2 << 20)
        memory[:] = b"\7" * len(memory)
        assert memory == b"\7" * len(memory)
    reader.close()


def test_close_under_way(path: Path, arena: Arena, gate: Gate) -> None:
    reader = open_reader([path], threads=2, piece=PIECE)
    gate.arm()
    transfer = reader.start(0, 0, arena.view(0, 8 * PIECE), 8 * PIECE)
    assert gate.entered.acquire(timeout=10)
    threading.Timer(0.05, gate.opened.set).start()
    reader.close()
    assert transfer.done
    assert transfer.error is not None


def test_hanging_drive_does_not_hang_close(path: Path, arena: Arena, gate: Gate) -> None:
    reader = open_reader([path], threads=2)
    gate.arm()
    transfer = reader.start(0, 0, arena.view(0, 4096), 4096)
    assert gate.entered.acquire(timeout=10)
    reader.close(0.02)
    assert not transfer.done
    gate.opened.set()
    assert transfer.wait(10)  # the last thread closes the files: the fixture looks


def test_forgotten_reader_ends(path: Path, arena: Arena) -> None:
    reader = open_reader([path], threads=2)
    load(reader, arena, 0, 10)
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None


def test_finished_pieces_hold_no_memory(path: Path) -> None:
    arena = Arena(2 << 20)
    reader = open_reader([path])
    transfer = reader.start(0, 0, arena.view(0, 1 << 20), 1 << 20)
    assert transfer.wait(10)
    arena._memory.release()  # BufferError while anything is exported
    arena._map.close()
    arena._closed = True
    reader.close()


@pytest.mark.parametrize(("threads", "piece"), [(0, 4096), (1, 0), (1, 5000)])
def test_nonsense_is_refused(threads: int, piece: int) -> None:
    with pytest.raises(ValueError, match="cannot read with"):
        FileReader([], threads=threads, piece=piece)


# -- faulty readers ---------------------------------------------------------------------


def test_faulty_reader_fails_where_it_should(arena: Arena) -> None:
    reader = FaultyReader([DATA], {1: fails(), 2: hangs()})
    transfers = [reader.start(0, 0, arena.view(0, 4096), 4096) for _ in range(4)]
    assert [transfer.done for transfer in transfers] == [True, True, False, True]
    assert [transfer.error is None for transfer in transfers] == [True, False, True, True]
    assert reader.cancel()
    assert transfers[2].done
    reader.close()


def test_transfer_keeps_its_first_error() -> None:
    transfer = Transfer()
    first = transfer.error = ReadError("first")
    transfer.finish(ReadError("second"))
    assert transfer.error is first
    assert transfer.wait(0)
    assert transfer.wait()
