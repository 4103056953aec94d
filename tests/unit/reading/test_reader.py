"""What every reader of bytes does: the same bytes, the same refusals, the same counts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.faulty_reader import FaultyReader, fails, hangs
from support.read_bytes import DATA, PIECE, SIZE, load, refuse_direct

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.drive import open_drive
from flexinfer.reading.file_reader import read_from
from flexinfer.reading.memory_reader import MemoryReader
from flexinfer.reading.open_file import Access
from flexinfer.reading.reader import Reader, Transfer

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(params=["direct", "clean", "cached", "two", "memory"])
def reader(
    request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    if request.param == "clean":
        refuse_direct(monkeypatch)
    if request.param == "memory":
        reader: Reader = MemoryReader([DATA])
    elif request.param == "two":
        other = shutil.copy(path, path.with_suffix(".copy"))
        reader = read_from(open_drive([each], threads=2, piece=PIECE) for each in (path, other))
    else:
        drive = open_drive([path], cached=request.param == "cached", threads=3, piece=PIECE)
        assert drive.files[0].access is Access[request.param.upper()]
        reader = read_from([drive])
    yield reader
    reader.close()


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
