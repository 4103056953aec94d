"""A drive of our own for a time: a file system in an image file behind a loop device.

Needs root, and a kernel with loop devices.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flexinfer.errors import UnsupportedError

# What a file system needs beside the file in it.
_ROOM = 64 << 20


@contextmanager
def loop_drive(file: str, folder: Path) -> Iterator[Path]:
    """A drive that holds a copy of `file`; yields the path of the copy.

    The image lies in `folder`, is read past the page cache, and goes in the end.

    Raises:
        UnsupportedError: no such drive can be made here.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        image, mounted = place / "image", place / "drive"
        mounted.mkdir()
        with image.open("wb") as written:
            # No holes: those would be read from no drive.
            os.posix_fallocate(written.fileno(), 0, os.path.getsize(file) * 21 // 20 + _ROOM)
        _run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)])
        device = _run(["losetup", "--find", "--show", "--direct-io=on", str(image)])
        stack.callback(_run, ["losetup", "--detach", device])
        _run(["mount", device, str(mounted)])
        stack.callback(_run, ["umount", str(mounted)])
        copy = mounted / Path(file).name
        shutil.copyfile(file, copy)
        with copy.open("rb") as written_back:
            os.fsync(written_back.fileno())
        yield copy


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UnsupportedError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise UnsupportedError(f"{' '.join(command)}: {error.stderr.strip()}") from error
    return done.stdout.strip()
