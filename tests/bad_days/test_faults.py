"""Drives that fail: one clear sentence, nothing left behind, and the next request is exact."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.decoding_bits import answer, open_tiny
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import ReadError
from flexinfer.sizes import ALIGNMENT

pytestmark = pytest.mark.usefixtures("no_leaks")

_Preadv = Callable[[int, Sequence[memoryview], int], int]


class Drive:
    """Stands in front of `os.preadv`; `fault` takes its place from read `first` on."""

    def __init__(self) -> None:
        self.reads = 0
        self.first = 0
        self.fault: _Preadv | None = None
        self.preadv = os.preadv

    def __call__(self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        self.reads += 1
        if self.fault is not None and self.reads > self.first:
            return self.fault(fd, buffers, offset)
        return self.preadv(fd, buffers, offset, flags)

    def fail(self, fault: _Preadv, after: int = 0) -> None:
        self.first = self.reads + after
        self.fault = fault


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Drive:
    drive = Drive()
    monkeypatch.setattr(os, "preadv", drive)
    return drive


@pytest.fixture
def model(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_model("tiny-llama", "q4_0"), tmp_path / "model.gguf"))


@pytest.fixture
def llm(model: Path, drive: Drive) -> Iterator[Llama]:
    with open_tiny(model) as llm:
        yield llm


def _io_error(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _one_sentence(error: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("after", [0, 1, 7, 23])
def test_a_read_that_fails_for_good_ends_the_request(
    llm: Llama, drive: Drive, model: Path, after: int
) -> None:
    expected = answer(llm)
    drive.fail(_io_error, after)
    with pytest.raises(ReadError) as error:
        answer(llm)
    _one_sentence(error, str(model), "Input/output error", "check the drive")
    drive.fault = None
    assert answer(llm) == expected


def test_every_request_fails_while_the_drive_does(llm: Llama, drive: Drive) -> None:
    expected = answer(llm)
    drive.fail(_io_error)
    threads = threading.active_count()
    for _ in range(5):
        with pytest.raises(ReadError):
            answer(llm)
    assert threading.active_count() == threads
    drive.fault = None
    assert answer(llm) == expected


def test_a_read_that_fails_once_is_not_seen(llm: Llama, drive: Drive) -> None:
    expected = answer(llm)
    failed: set[int] = set()

    def hiccup(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset % 3 == 0 and offset not in failed:
            failed.add(offset)
            return _io_error()
        return drive.preadv(fd, buffers, offset)

    drive.fail(hiccup)
    assert answer(llm) == expected
    assert len(failed) > 3


def test_short_reads_are_continued(llm: Llama, drive: Drive) -> None:
    expected = answer(llm)
    shortened = 0

    def short(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        nonlocal shortened
        [view] = buffers
        if len(view) > 4096:
            shortened += 1
            view = view[:4096]
        return drive.preadv(fd, [view], offset)

    drive.fail(short)
    assert answer(llm) == expected
    assert shortened > 10


def test_a_slow_drive_only_takes_longer(llm: Llama, drive: Drive) -> None:
    expected = answer(llm)

    def slow(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        time.sleep(0.002 * (drive.reads % 4))
        return drive.preadv(fd, buffers, offset)

    drive.fail(slow)
    assert answer(llm) == expected


def test_a_read_that_hangs_ends_the_request(llm: Llama, drive: Drive) -> None:
    """The memory that a hanging read may still write to is not used again."""
    expected = answer(llm)
    answered = threading.Event()
    first = iter([True])
    hanging: list[range] = []
    filled: list[range] = []

    def hang(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        # The last bytes of a part come through a page of their own.
        if len(buffers[0]) <= ALIGNMENT or not next(first, False):
            filled.append(_place(buffers[0]))
            return drive.preadv(fd, buffers, offset)
        hanging.append(_place(buffers[0]))
        answered.wait(30)
        buffers[0][:] = b"\xff" * len(buffers[0])
        return len(buffers[0])

    waiting = llm._storage().waiting
    patient, waiting.hang_s, waiting.cancel_s = waiting.hang_s, 0.2, 0.1
    drive.fail(hang, 3)
    with pytest.raises(ReadError) as error:
        answer(llm)
    _one_sentence(error, "did not answer", "file 0", "check the drive")
    waiting.hang_s = patient
    # It may wait for the thread that hangs.
    late = threading.Timer(1.0, answered.set)
    late.start()
    assert answer(llm) == expected
    late.join()
    assert answer(llm) == expected
    (left,) = hanging
    assert len(filled) > 4
    assert not [place for place in filled if place.start < left.stop and left.start < place.stop]


def _place(buffer: memoryview) -> range:
    """Its addresses."""
    address = np.frombuffer(buffer, np.uint8).ctypes.data
    return range(address, address + len(buffer))


def test_closing_while_a_read_hangs(model: Path, drive: Drive) -> None:
    llm = open_tiny(model)
    answered = threading.Event()

    def hang(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        answered.wait(30)
        return drive.preadv(fd, buffers, offset)

    waiting = llm._storage().waiting
    waiting.hang_s, waiting.cancel_s, waiting.close_s = 0.2, 0.1, 0.1
    drive.fail(hang, 2)
    with pytest.raises(ReadError):
        answer(llm)
    llm.close()
    answered.set()


def test_a_truncated_file_is_noticed(llm: Llama, model: Path) -> None:
    answer(llm)
    os.truncate(model, model.stat().st_size // 2)
    with pytest.raises(ReadError) as error:
        answer(llm)
    _one_sentence(error, str(model), "open the model again")


def test_a_file_truncated_during_a_pass(llm: Llama, drive: Drive, model: Path) -> None:
    answer(llm)

    def cut(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        os.truncate(model, 8192)
        return drive.preadv(fd, buffers, offset)

    drive.fail(cut, 5)
    with pytest.raises(ReadError) as error:
        answer(llm)
    _one_sentence(error, str(model))


def test_a_file_written_to_is_noticed_and_opens_again(llm: Llama, model: Path) -> None:
    expected = answer(llm)
    content = model.read_bytes()
    os.truncate(model, 4096)
    model.write_bytes(content)
    with pytest.raises(ReadError) as error:
        answer(llm)
    _one_sentence(error, str(model), "open the model again")
    llm.close()
    with open_tiny(model) as again:
        assert answer(again) == expected


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_file_that_is_gone_is_still_read(llm: Llama, model: Path, change: str) -> None:
    """The open file is what counts: its name may go, or go to another file."""
    expected = answer(llm)
    if change == "deleted":
        model.unlink()
    else:
        other = model.with_suffix(".new")
        other.write_bytes(b"\0" * 65536)
        other.replace(model)
    assert answer(llm) == expected
