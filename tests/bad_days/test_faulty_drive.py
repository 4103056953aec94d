"""Faults of a real file system below the kernel's read calls; `test_faults` injects above them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.decoding_bits import answer, open_tiny
from support.faulty_drive import FaultyDrive
from support.model_drive import holding
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import ReadError

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(scope="module")
def drive(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyDrive]:
    folder = tmp_path_factory.mktemp("drive")
    with holding(tiny_model("tiny-llama", "q4_0"), folder) as drive:
        yield drive


@pytest.fixture
def llm(drive: FaultyDrive) -> Iterator[Llama]:
    drive.set("none")
    with open_tiny(drive.folder / "model.gguf", weight_memory="1MiB") as llm:
        assert llm.plan.streamed_bytes > 0
        yield llm
    drive.set("none")


@pytest.mark.parametrize("fault", ["once", "slow"])
def test_what_passes_is_not_seen(llm: Llama, drive: FaultyDrive, fault: str) -> None:
    expected = answer(llm)
    drive.set(fault)
    assert answer(llm) == expected
    assert drive.fault == ("none" if fault == "once" else fault)


def test_reads_that_fail_end_the_request_and_the_next_one_is_exact(
    llm: Llama, drive: FaultyDrive
) -> None:
    expected = answer(llm)
    for _ in range(3):
        drive.set("error")
        with pytest.raises(ReadError, match=r"model\.gguf.*Input/output error.*check the drive"):
            answer(llm)
        drive.set("none")
        assert answer(llm) == expected


def test_a_drive_that_hangs_ends_the_request(llm: Llama, drive: FaultyDrive) -> None:
    expected = answer(llm)
    waiting = llm._storage().waiting
    patient, waiting.hang_s, waiting.cancel_s = waiting.hang_s, 0.3, 0.1
    drive.set("hang")
    with pytest.raises(ReadError, match="did not answer"):
        answer(llm)
    waiting.hang_s = patient
    drive.set("none")
    assert answer(llm) == expected


@pytest.fixture(scope="module")
def network(
    tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultyDrive]:
    """A drive whose short reads reach whoever reads."""
    folder = tmp_path_factory.mktemp("network")
    with holding(tiny_model("tiny-llama", "q4_0"), folder, direct_io=True) as drive:
        yield drive


@pytest.mark.parametrize("fault", ["short", "crumbs"])
def test_reads_that_stop_anywhere_are_continued(
    network: FaultyDrive, tiny_model: TinyModel, fault: str
) -> None:
    """From the first byte of the header to the last token: the file is whole."""
    with open_tiny(tiny_model("tiny-llama", "q4_0"), weight_memory="1MiB") as local:
        expected = answer(local)
    network.set(fault)
    with open_tiny(network.folder / "model.gguf", weight_memory="1MiB") as llm:
        assert answer(llm) == expected
        assert llm.plan.streamed_bytes > 0
    network.set("none")
