"""A file that is written whole or not at all: beside its place first, then under its name."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from flexinfer.errors import RequestError
from flexinfer.sizes import format_size


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path to write to. On success it becomes `path`; on failure it is gone and `path` untouched.

    Two who write the same file at a time do not meet: the last one's stays. A link stays one.

    Args:
        durable: once it has its name it also survives a loss of power.

    Raises:
        OSError: `path` is a folder, device, pipe or a link to itself; or the file cannot be
            renamed, or not be brought to the drive.
    """
    path = Path(os.path.realpath(path))
    # Renaming would put a file in the place of a device, for every program of the machine. A link
    # that is still one names itself.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        if durable:
            _to_drive(partial)
        partial.replace(path)
        if durable:
            _to_drive(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def require_room(folder: Path, what: str, nbytes: int, todo: str) -> None:
    """Refuse to write so many bytes of `what` where the drive has no room; `todo`: what to do.

    Raises:
        RequestError: there is none.
        OSError: there is no such folder.
    """
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise RequestError(
            f"{what} has {format_size(nbytes)} but {folder} has {format_size(free)} free; {todo}"
        )


def _to_drive(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
