"""Files read by threads: several of them, errors that pass, errors that last, readers that end."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from pathlib import Path

import pytest
from support.read_bytes import DATA, PIECE, load

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.drive import Drive
from flexinfer.reading.file_reader import open_reader
from flexinfer.reading.open_file import OpenFile

pytestmark = pytest.mark.usefixtures("no_leaks")


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
        Drive([], threads=threads, piece=piece)
