"""Files opened for direct reads: the page cache stays clean, reads that stop anywhere go on."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.read_bytes import DATA, PIECE, SIZE, load, refuse_direct

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.file_reader import open_reader
from flexinfer.reading.open_file import Access, OpenFile, cached_fraction

pytestmark = pytest.mark.usefixtures("no_leaks")


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


def test_short_reads_are_continued(
    path: Path, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, b, offset: real(fd, [b[0][:4096]], offset))
    reader = open_reader([path], piece=PIECE)
    assert load(reader, arena, 0, SIZE)[1] == DATA
    reader.close()
