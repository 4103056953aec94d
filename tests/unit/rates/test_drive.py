from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flexinfer.errors import ModelNotFoundError, ReadError
from flexinfer.rates import drive as drive_module
from flexinfer.rates.drive import (
    ASSUMED_RATE,
    CANDIDATES,
    DriveRate,
    drive_rate,
    measure,
    remember_drive,
)
from flexinfer.reading.drive import DEFAULT_PIECE, DEFAULT_THREADS
from flexinfer.reading.reader import CLOSE_SECONDS, DriveUse, Reader, Transfer, Treatment

pytestmark = pytest.mark.usefixtures("no_leaks")
MIB = 1 << 20


class FakeDrive:
    """Opens readers whose bytes take as long as `rates` says, on a clock of its own."""

    def __init__(self, *rates: float) -> None:
        self.rates = dict(zip(CANDIDATES, rates, strict=True))
        self.now = 0.0
        self.opened: list[tuple[int, int]] = []
        self.closed = 0
        self.starts: list[int] = []
        self.files: set[int] = set()
        self.error: ReadError | None = None

    def __call__(self, paths: Sequence[str], *, threads: int | None, piece: int | None) -> Reader:
        assert threads is not None
        assert piece is not None
        self.opened.append((threads, piece))
        return _FakeReader(self, self.rates[threads, piece])

    def clock(self) -> float:
        return self.now


class _FakeReader:
    alignment = 4096
    busy_s = 0.0

    def __init__(self, drive: FakeDrive, rate: float) -> None:
        self.drive = drive
        self.rate = rate
        self.bytes_read = 0

    @property
    def drives(self) -> tuple[DriveUse, ...]:
        """Each byte takes a processor a tenth as long as the drive."""
        return (DriveUse("", self.bytes_read, cpu_s=self.bytes_read / self.rate / 10),)

    def span(self, file: int, offset: int, length: int) -> tuple[int, int]:
        raise AssertionError

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
        self.drive.now += len(view) / self.rate
        self.bytes_read += len(view)
        self.drive.starts.append(start)
        self.drive.files.add(file)
        transfer = Transfer()
        transfer.finish(self.drive.error)
        return transfer

    def read_into(self, file: int, offset: int, view: memoryview) -> None:
        raise AssertionError

    def check(self) -> None:
        raise AssertionError

    def leave_hanging(self, transfer: Transfer | None = None) -> bool:
        raise AssertionError

    def cancel(self, timeout: float | None = None) -> bool:
        return True

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        self.drive.closed += 1


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 640 * MIB)  # no holes
    return str(path)


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive_module, "read_limit", lambda device: None)
    monkeypatch.setattr(drive_module, "device_of", lambda path: (254, 0))


@pytest.mark.parametrize(
    ("rates", "best"), [((3e9, 3.2e9, 3.1e9), 0), ((3e9, 4e9, 3e9), 1), ((1e9, 1e9, 2e9), 2)]
)
def test_takes_the_default_unless_another_is_clearly_faster(
    model: str, rates: tuple[float, ...], best: int
) -> None:
    drive = FakeDrive(*rates)
    found = measure([model], opener=drive, clock=drive.clock)
    assert (found.threads, found.piece) == CANDIDATES[best]
    assert found.rate == pytest.approx(rates[best])
    assert found.cpu == pytest.approx(0.1 / rates[best])
    assert found.source == "measured"
    assert drive.opened == list(CANDIDATES)
    assert drive.closed == len(CANDIDATES)


def test_fast_drive_reads_a_bounded_amount_spread_over_the_file(model: str) -> None:
    drive = FakeDrive(1e12, 1e12, 1e12)
    measure([model], opener=drive, clock=drive.clock)
    assert 0.9 * 512 * MIB < len(drive.starts) * 8 * MIB <= 512 * MIB
    assert max(drive.starts) + 8 * MIB <= 640 * MIB
    assert max(drive.starts) > 400 * MIB
    assert min(drive.starts) < 100 * MIB


def test_slow_drive_stops_after_a_bounded_time(model: str) -> None:
    drive = FakeDrive(50e6, 50e6, 50e6)
    found = measure([model], opener=drive, clock=drive.clock)
    assert found.rate == pytest.approx(50e6)
    assert drive.now < 3 * (0.2 / 3 + 6 * 8 * MIB / 50e6)


def test_reads_the_largest_file_of_a_split_model(model: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x")
    drive = FakeDrive(1e9, 1e9, 1e9)
    measure([str(small), model], opener=drive, clock=drive.clock)
    assert drive.files == {1}


def test_small_model_is_not_measured_and_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    path.write_bytes(bytes(MIB))
    drive = FakeDrive(1e9, 1e9, 1e9)
    found = drive_rate([str(path)], folder=tmp_path / "cache", opener=drive, clock=drive.clock)
    assert found == DriveRate(ASSUMED_RATE, DEFAULT_THREADS, DEFAULT_PIECE, "assumed")
    assert drive.opened == []
    assert not (tmp_path / "cache").exists()


def test_passes_correct_what_is_remembered(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = FakeDrive(1e9, 1e9, 1e9)
    first = drive_rate([model], folder=tmp_path, opener=drive, clock=drive.clock)
    remember_drive([model], replace(first, rate=2e9), folder=tmp_path)
    again = drive_rate([model], folder=tmp_path, opener=drive, clock=drive.clock)
    assert again.rate == 2e9
    monkeypatch.setattr(drive_module, "read_limit", lambda device: 10**8)
    remember_drive([model], replace(first, rate=1e8), folder=tmp_path)
    monkeypatch.setattr(drive_module, "read_limit", lambda device: None)
    assert drive_rate([model], folder=tmp_path, opener=drive, clock=drive.clock).rate == 2e9


def test_file_with_holes_is_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(512 * MIB)
    drive = FakeDrive(1e9, 1e9, 1e9)
    assert measure([str(path)], opener=drive, clock=drive.clock).source == "assumed"
    assert drive.opened == []


def test_answer_is_remembered(model: str, tmp_path: Path) -> None:
    drive = FakeDrive(3e9, 4e9, 3e9)
    first = drive_rate([model], folder=tmp_path / "cache", opener=drive, clock=drive.clock)
    again = drive_rate([model], folder=tmp_path / "cache", opener=drive, clock=drive.clock)
    assert first.source == "measured"
    assert again.source == "remembered"
    assert again == replace(first, source="remembered")
    assert again.cpu > 0
    assert len(drive.opened) == len(CANDIDATES)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["rates.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(when=entry["when"] - 40 * 24 * 3600),
        lambda entry: entry.update(when=entry["when"] + 3600),
        lambda entry: entry.update(rate=-1),
        lambda entry: entry.update(threads="many"),
        lambda entry: entry.update(threads=77),
        lambda entry: entry.update(cpu=-1),
        lambda entry: entry.pop("cpu"),
        lambda entry: entry.clear(),
    ],
)
def test_old_or_odd_answers_are_measured_again(model: str, tmp_path: Path, change: object) -> None:
    drive = FakeDrive(3e9, 3e9, 3e9)
    drive_rate([model], folder=tmp_path, opener=drive, clock=drive.clock)
    file = tmp_path / "rates.json"
    entries = json.loads(file.read_text())
    assert callable(change)
    change(next(iter(entries.values())))
    file.write_text(json.dumps(entries))
    found = drive_rate([model], folder=tmp_path, opener=drive, clock=drive.clock)
    assert found.source == "measured"
    assert drive_rate([model], folder=tmp_path, opener=drive).source == "remembered"


@pytest.mark.parametrize("text", ["", "{", "[]", "\0", '{"(254, 0)": 3}'])
def test_broken_file_is_as_if_not_there(model: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "rates.json").write_text(text)
    drive = FakeDrive(3e9, 3e9, 3e9)
    found = drive_rate([model], folder=tmp_path, opener=drive, clock=drive.clock)
    assert found.source == "measured"
    assert drive_rate([model], folder=tmp_path, opener=drive).source == "remembered"


def test_folder_that_may_not_be_written_does_no_harm(model: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    drive = FakeDrive(3e9, 3e9, 3e9)
    found = drive_rate([model], folder=blocked / "cache", opener=drive, clock=drive.clock)
    assert found.rate == pytest.approx(3e9)


def test_limit_of_the_group_counts_and_is_not_remembered(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive_module, "read_limit", lambda device: 500_000_000)
    drive = FakeDrive(3e9, 3e9, 3e9)
    found = drive_rate([model], folder=tmp_path, opener=drive, clock=drive.clock)
    assert (found.rate, found.source) == (5e8, "limited")
    assert not (tmp_path / "rates.json").exists()


def test_failing_drive_is_told_and_nothing_stays_open(model: str) -> None:
    drive = FakeDrive(3e9, 3e9, 3e9)
    drive.error = ReadError("the drive failed")
    with pytest.raises(ReadError, match="the drive failed"):
        measure([model], opener=drive, clock=drive.clock)
    assert drive.closed == len(drive.opened) == 1


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        drive_rate([str(tmp_path / "none")], folder=tmp_path)


def test_real_reader_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 64 * MIB)
    found = measure([str(path)])
    assert found.rate > 0
    assert 0 < found.cpu < 1e-6
    assert found.source == "measured"
