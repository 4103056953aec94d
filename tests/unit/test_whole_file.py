"""A whole file or none: what a reader sees before, while and after it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexinfer.whole_file import whole_file


def test_it_appears_once_it_is_complete(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "file"
    with whole_file(path) as partial:
        partial.write_text("new")
        assert partial.parent == tmp_path
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_what_was_there_alone(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as partial:
            partial.write_text("ne")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as slow:
        slow.write_text("slow")
        with whole_file(path) as fast:
            fast.write_text("fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_on_the_drive_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, no_leaks: None
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    synced: list[tuple[str, str]] = []

    def fsync(opened: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{opened}"), path.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(path, durable=durable) as partial:
        partial.write_text("new")
    assert synced == ([(str(partial), "old"), (str(tmp_path), "new")] if durable else [])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "none" / "file") as partial:
        partial.write_text("new")


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (pipe, folder, loop):
        with pytest.raises(OSError, match="no regular file"), whole_file(path):
            pytest.fail("it is not to be written")
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [folder, loop, pipe]


def test_what_a_link_names_is_written(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(path)
    for text in ("new", "newer"):
        with whole_file(link) as partial:
            partial.write_text(text)
        assert path.read_text() == text
        assert link.is_symlink()
