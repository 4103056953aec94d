"""A model with copies on other drives: the same bits, what is refused, what is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.decoding_bits import answer, open_tiny
from support.tiny_model import TinyModel

import flexinfer
from flexinfer import Llama
from flexinfer.errors import FlexInferError, ModelFileError, ModelNotFoundError, RequestError
from flexinfer.synth.write import write_model

pytestmark = pytest.mark.usefixtures("no_leaks")

OPTIONS: dict[str, Any] = {"weight_memory": "1MiB", "n_ctx": 256, "n_threads": 2, "n_ubatch": 32}


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("tiny-llama", "q4_0")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(model, tmp_path / "copy.gguf"))


def mirrored(model: Path, *mirrors: Path, lost: Callable[[str], None] = print) -> Llama:
    return Llama(
        str(model), **OPTIONS, mirrors=mirrors, on_lost=lost, logits_all=True, verbose=False
    )


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-moe"])
def test_bits_are_those_of_one_drive(tiny_model: TinyModel, tmp_path: Path, preset: str) -> None:
    model = tiny_model(preset, "q4_0")
    copies = [Path(shutil.copy(model, tmp_path / f"{number}.gguf")) for number in range(2)]
    with open_tiny(model) as alone:
        expected = answer(alone)
    with mirrored(model, *copies) as llm:
        for number in range(20):
            assert answer(llm) == expected
            # On a busy machine two drives may have read all of it before the third begins.
            if number > 1 and all(use.bytes_read > 0 for use in llm.drives):
                break
        assert llm.plan.streamed_bytes > 0
        uses = llm.drives
        assert [use.path for use in uses] == [str(path) for path in (model, *copies)]
        assert all(use.bytes_read > 0 for use in uses)
        assert [use.failure for use in uses] == [None] * 3
        shares = llm.plan.rates.drives
        assert [share.path for share in shares] == [use.path for use in uses]
        assert llm.plan.rates.drive == pytest.approx(sum(share.rate for share in shares))
        llm.release()
        assert answer(llm) == expected
        llm.memory = "4GiB"
        assert answer(llm) == expected


def test_a_plan_from_the_header_is_that_of_the_open_model(model: Path, copy: Path) -> None:
    foretold = flexinfer.plan(model, **OPTIONS, mirrors=[copy])
    with mirrored(model, copy) as llm:
        assert llm.plan.rates.drives == foretold.rates.drives
        assert llm.plan.costs.overhead > 0
    with open_tiny(model) as alone:
        assert alone.plan.rates.drives == ()
        more = flexinfer.plan(model, **OPTIONS).costs.overhead
    assert foretold.costs.overhead > more


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_split_model_has_split_mirrors(tmp_path: Path, as_folder: bool) -> None:
    paths = write_model("tiny-llama", tmp_path / "m.gguf", "q4_0", split=3)
    folder = tmp_path / "copy"
    folder.mkdir()
    copies = [shutil.copy(path, folder) for path in paths]
    with open_tiny(paths[0]) as alone:
        expected = answer(alone)
    with mirrored(Path(paths[0]), folder if as_folder else Path(copies[0])) as llm:
        assert answer(llm) == expected
        assert llm.drives[1].path == str(copies[0])
        assert llm.drives[1].bytes_read > 0
    with pytest.raises(RequestError, match="has 3 files; give the first of its copy"):
        mirrored(Path(paths[0]), Path(shutil.copy(paths[0], tmp_path / "other.gguf")))
    Path(copies[1]).unlink()
    with pytest.raises(ModelNotFoundError, match=r"mirror of .*00002-of-00003"):
        mirrored(Path(paths[0]), folder)


def shorter(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size - 1)


def other_header(copy: Path) -> None:
    with copy.open("r+b") as file:
        file.seek(60)
        byte = file.read(1)[0]
        file.seek(60)
        file.write(bytes([byte ^ 1]))


def other_weights(copy: Path) -> None:
    """Half of them: no sample sees a single byte for certain."""
    size = copy.stat().st_size
    with copy.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size - size // 2))


def other_end(copy: Path) -> None:
    with copy.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def gone(copy: Path) -> None:
    copy.unlink()


def pipe(copy: Path) -> None:
    copy.unlink()
    os.mkfifo(copy)


def empty(copy: Path) -> None:
    os.truncate(copy, 0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (shorter, ModelFileError, "is no copy of .*bytes instead of"),
        (empty, ModelFileError, "it has 0 bytes instead of"),
        (other_header, ModelFileError, "its header differ"),
        (other_weights, ModelFileError, "its weights differ between bytes"),
        (other_end, ModelFileError, "its weights differ between bytes"),
        (gone, ModelNotFoundError, "the mirror of .* cannot be read: .*no such file"),
        (pipe, ModelFileError, "is no regular file"),
    ],
)
def test_what_is_no_copy_is_refused(
    model: Path,
    copy: Path,
    change: Callable[[Path], None],
    error: type[FlexInferError],
    words: str,
) -> None:
    change(copy)
    for attempt in (mirrored, lambda *paths: flexinfer.plan(paths[0], mirrors=paths[1:])):
        with pytest.raises(error, match=words) as refused:
            attempt(model, copy)
        assert str(copy) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_one_file_is_no_two_drives(model: Path, copy: Path, tmp_path: Path) -> None:
    link, hard = tmp_path / "link.gguf", tmp_path / "hard.gguf"
    link.symlink_to(model)
    hard.hardlink_to(copy)
    for mirrors in ([model], [link], [copy, copy], [copy, hard]):
        with pytest.raises(RequestError, match=r"is the same file as .*on another drive"):
            mirrored(model, *mirrors)


def test_a_mirror_that_is_replaced_while_open_changes_no_bit(model: Path, copy: Path) -> None:
    lines: list[str] = []
    with mirrored(model, copy, lost=lines.append) as llm:
        expected = answer(llm)
        copy.unlink()
        copy.write_bytes(b"something else")
        assert answer(llm) == expected
        assert not lines


def test_a_mirror_that_is_written_to_is_left_aside(model: Path, copy: Path) -> None:
    lines: list[str] = []
    with mirrored(model, copy, lost=lines.append) as llm:
        expected = answer(llm)
        os.truncate(copy, 4096)
        for _ in range(2):
            assert answer(llm) == expected
        assert len(lines) == 1
        assert lines[0].startswith(f"{copy} is left aside, {model} goes on: ")
        assert [use.failure is None for use in llm.drives] == [True, False]
