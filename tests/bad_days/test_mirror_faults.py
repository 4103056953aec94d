"""A model on two drives, one of which fails, hangs, dawdles or is left with the process forked."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.command import FLEXINFER, flexinfer
from support.decoding_bits import answer, open_tiny
from support.faulty_drive import FaultyDrive
from support.forked import in_child
from support.model_drive import holding
from support.served import ASKED, serving
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import EngineError, ReadError
from flexinfer.reading.drives import Drives

pytestmark = pytest.mark.usefixtures("no_leaks")

_FIRST, _SECOND = 0, 1


@dataclass
class Case:
    """A model on a good drive and a copy of it on one that fails."""

    good: Path
    drive: FaultyDrive
    alone: bytes
    lines: list[str] = field(default_factory=list)

    @property
    def bad(self) -> Path:
        return self.drive.folder / "model.gguf"

    def open(self, bad_at: int) -> Llama:
        """With the failing drive as that of the model (0), or of its mirror (1)."""
        model, mirror = (self.bad, self.good) if bad_at == _FIRST else (self.good, self.bad)
        llm = open_tiny(model, mirrors=[mirror], on_lost=self.lines.append)
        waiting = llm._storage().waiting
        waiting.hang_s, waiting.cancel_s, waiting.close_s = 0.5, 0.1, 0.5
        return llm


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-moe"])
def held(
    request: pytest.FixtureRequest,
    tiny_model: TinyModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, FaultyDrive, bytes]]:
    folder = tmp_path_factory.mktemp("drives")
    model = tiny_model(request.param, "q4_0")
    good = Path(shutil.copy(model, folder / "good.gguf"))
    with open_tiny(good) as llm:
        alone = answer(llm)
    with holding(model, folder) as drive:
        yield good, drive, alone


@pytest.fixture
def case(held: tuple[Path, FaultyDrive, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Both drives take of each other's work, however fast they are."""
    monkeypatch.setattr(Drives, "portion", lambda drives, drive, outstanding, most: most)
    case = Case(*held)
    case.drive.set("none")
    yield case
    case.drive.set("none")


def until_left(case: Case, llm: Llama, bad_at: int) -> None:
    """Answers have the same bits until the drive is left aside, and then.

    Where an expert alone is read and its drive hangs, one request ends.
    """
    ended = 0
    for _ in range(20):
        try:
            assert answer(llm) == case.alone
        except ReadError:
            ended += 1
        if llm.drives[bad_at].failure is not None:
            break
    assert ended <= (llm.experts is not None)
    assert answer(llm) == case.alone
    assert [use.failure is None for use in llm.drives] == [bad_at == _SECOND, bad_at == _FIRST]
    assert len(case.lines) == 1
    assert case.lines[0].startswith(f"{case.bad} is left aside, {case.good} goes on: ")


@pytest.mark.parametrize("bad_at", [_FIRST, _SECOND])
@pytest.mark.parametrize(
    ("fault", "reason"), [("error", "Input/output error"), ("hang", "does not answer; check it")]
)
def test_the_answer_goes_on_without_a_drive(
    case: Case, bad_at: int, fault: str, reason: str
) -> None:
    with case.open(bad_at) as llm:
        assert answer(llm) == case.alone
        assert all(use.bytes_read > 0 for use in llm.drives)
        case.drive.set(fault)
        until_left(case, llm, bad_at)
        assert reason in case.lines[0]
        # What it owes may come now: it changes nothing.
        case.drive.set("none")
        assert answer(llm) == case.alone
        llm.release()
        assert answer(llm) == case.alone


@pytest.mark.parametrize("fault", ["once", "slow"])
def test_what_passes_costs_no_drive(case: Case, fault: str) -> None:
    with case.open(_SECOND) as llm:
        case.drive.set(fault)
        for _ in range(3):
            assert answer(llm) == case.alone
        assert all(use.failure is None and use.bytes_read > 0 for use in llm.drives)
    assert not case.lines


def test_the_last_drive_raises_and_the_next_request_is_exact(case: Case) -> None:
    with case.open(_FIRST) as llm:
        reader: Any = llm._storage()._reader
        good = reader._drives.all[_SECOND]
        assert reader._drives.leave_aside(good, ReadError("taken out"))
        for _ in range(2):
            case.drive.set("error")
            with pytest.raises(ReadError, match=r"model\.gguf.*Input/output error") as raised:
                answer(llm)
            assert "\n" not in str(raised.value)
            case.drive.set("none")
            assert answer(llm) == case.alone


def test_a_model_is_closed_while_a_drive_hangs(case: Case) -> None:
    with case.open(_SECOND) as llm:
        case.drive.set("hang")
        until_left(case, llm, _SECOND)
    case.drive.set("none")
    with case.open(_SECOND) as llm:
        assert answer(llm) == case.alone


def test_a_forked_child_refuses_and_opens_its_own(case: Case) -> None:
    with case.open(_SECOND) as llm:
        assert answer(llm) == case.alone

        def check() -> bool:
            with pytest.raises(EngineError, match="spawn"):
                llm.eval([1])
            llm.close()
            with case.open(_SECOND) as own:
                return answer(own) == case.alone

        assert in_child(check) == 0
        assert answer(llm) == case.alone


def command_line(case: Case, *words: object) -> list[str]:
    asked = ("-p", "one", "--temp", 0, "--weight-memory", "1MiB", "--ctx", 2048, *words)
    return [*FLEXINFER, "run", str(case.bad), "--mirror", str(case.good), *map(str, asked)]


def started(case: Case, *words: object) -> subprocess.Popen[bytes]:
    """The command, once its answer has begun."""
    process = subprocess.Popen(
        command_line(case, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    return process


def test_run_says_in_one_line_that_a_drive_failed(case: Case) -> None:
    """The model's own: rows of its embedding are read from there for every token."""
    count = ("-n", 200)
    alone = flexinfer(
        *("run", case.good, "-p", "one", "--temp", 0, "--weight-memory", "1MiB", "--ctx", 2048),
        *count,
    )
    process = started(case, *count)
    case.drive.set("error")
    rest, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert rest.decode("utf-8", "replace") == alone.stdout[1:]
    lines = [line for line in said.decode().splitlines() if "left aside" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{case.bad} is left aside, {case.good} goes on: ")
    assert b"Traceback" not in said


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether its main thread did: another one may wait for a drive, where nothing can end it."""
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_ctrl_c_while_a_drive_hangs(case: Case) -> None:
    process = started(case, "-n", 2000)
    try:
        case.drive.set("hang")
        time.sleep(0.5)  # by then it waits for the drive
        process.send_signal(signal.SIGINT)
        until = time.monotonic() + 40
        while not has_ended(process):
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        case.drive.set("none")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"Traceback" not in said


def test_a_server_goes_on_without_a_drive(case: Case) -> None:
    options = ("--mirror", case.good, "--ctx", 512, "--weight-memory", "1MiB")
    with serving(case.bad, *options) as served:
        expected = served.complete(**ASKED)["tokens"]
        case.drive.set("error")
        for _ in range(2):
            assert served.complete(**ASKED)["tokens"] == expected
        drives = served.stats["drives"]
        assert [drive["path"] for drive in drives] == [str(case.bad), str(case.good)]
        assert "Input/output error" in drives[_FIRST]["failure"]
        assert drives[_SECOND]["failure"] is None
        assert served.log.count("is left aside") == 1
        _, _, metrics = served.request("GET", "/metrics")
        assert f'flexinfer_drive_left_aside{{path="{case.bad}"}} 1' in metrics.decode()
        assert f'flexinfer_drive_left_aside{{path="{case.good}"}} 0' in metrics.decode()
