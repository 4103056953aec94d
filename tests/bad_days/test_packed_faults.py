"""Packed copies on drives that fail: another copy goes on, the last one ends a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.decoding_bits import answer
from support.faulty_drive import FaultyDrive
from support.model_drive import holding
from support.packed import require_packed_kernels
from support.tiny_model import TinyModel

import flexinfer
from flexinfer import Llama
from flexinfer.errors import ReadError
from flexinfer.reading.drives import Drives

pytestmark = pytest.mark.usefixtures("no_leaks")


class Case:
    """A model, a packed copy of it on a good drive, and one on a drive that fails."""

    def __init__(self, model: Path, good: Path, drive: FaultyDrive) -> None:
        self.model, self.good, self.drive = model, good, drive
        self.bad = drive.folder / "model.gguf"
        self.lines: list[str] = []
        with self.open() as llm:
            self.alone = answer(llm)

    def open(self, *copies: Path) -> Llama:
        llm = Llama(
            str(self.model),
            mirrors=copies,
            repack=True,
            on_lost=self.lines.append,
            weight_memory="1MiB",
            n_ctx=256,
            n_threads=2,
            n_ubatch=32,
            logits_all=True,
            verbose=False,
        )
        waiting = llm._storage().waiting
        waiting.hang_s, waiting.cancel_s, waiting.close_s = 0.5, 0.1, 0.5
        return llm


@pytest.fixture(params=["tiny-llama", "tiny-moe"])
def case(
    request: pytest.FixtureRequest,
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Case]:
    require_packed_kernels()
    # Both drives take of each other's work, however fast they are.
    monkeypatch.setattr(Drives, "portion", lambda drives, drive, outstanding, most: most)
    model = tiny_model(request.param, "q4_0")
    (good,) = flexinfer.pack(model, tmp_path / "good")
    with holding(good, tmp_path) as drive:
        yield Case(model, good, drive)
        drive.set("none")


def test_the_other_copy_goes_on(case: Case) -> None:
    with case.open(case.bad, case.good) as llm:
        assert answer(llm) == case.alone
        assert all(use.bytes_read > 0 for use in llm.drives)
        case.drive.set("error")
        for _ in range(20):
            assert answer(llm) == case.alone
            if case.lines:
                break
        assert len(case.lines) == 1
        assert case.lines[0].startswith(f"{case.bad} is left aside, {case.good} goes on: ")
        llm.release()
        assert answer(llm) == case.alone


@pytest.mark.parametrize(
    ("fault", "words"), [("error", "Input/output error"), ("hang", "did not answer")]
)
def test_the_last_copy_ends_a_request_and_no_more(case: Case, fault: str, words: str) -> None:
    with case.open(case.bad) as llm:
        case.drive.set(fault)
        with pytest.raises(ReadError, match=words) as raised:
            answer(llm)
        assert "\n" not in str(raised.value)
        case.drive.set("none")
        assert answer(llm) == case.alone
        assert not case.lines


def test_a_copy_that_cannot_be_read_is_refused_at_once(case: Case) -> None:
    case.drive.set("error")
    with pytest.raises(ReadError, match=str(case.bad)):
        case.open(case.bad)
    case.drive.set("none")
    with case.open(case.bad) as llm:
        assert answer(llm) == case.alone
