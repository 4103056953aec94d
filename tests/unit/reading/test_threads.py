"""Transfers under way: their order, waiting for them, giving them up, ending them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.read_bytes import DATA, PIECE, Gate, load

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.file_reader import open_reader
from flexinfer.reading.reader import Transfer

pytestmark = pytest.mark.usefixtures("no_leaks")


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
