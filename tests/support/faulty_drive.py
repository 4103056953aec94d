"""A file system of our own (FUSE) whose reads fail as a drive's do; a process of its own serves it.

    python faulty_drive.py FOLDER MOUNTPOINT CONTROL

Shows the files of FOLDER. The word in the file CONTROL decides what reads do: ``error`` (EIO),
``once`` (EIO for the next read, then none), ``slow`` (5 ms each), ``hang`` (no answer until the
word changes), ``short`` (at most 60,001 bytes each), ``crumbs`` (1,001 each), anything else
nothing. Short reads mean the end of the file to FUSE, unless it is mounted with ``direct_io``, as
network file systems are: then whoever reads gets them.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FaultyDrive:
    """The running file system: files under `folder`, and what happens to reads."""

    def __init__(self, folder: Path, control: Path) -> None:
        self.folder = folder
        self._control = control

    def set(self, fault: str) -> None:
        # In one step: the server reads it at any moment.
        new = self._control.with_suffix(".new")
        new.write_text(fault)
        new.replace(self._control)

    @property
    def fault(self) -> str:
        return self._control.read_text()


@contextmanager
def mounted(source: Path, at: Path, *, direct_io: bool = False) -> Iterator[FaultyDrive]:
    """Mount `source` in the folder `at`; with `direct_io`, past the page cache.

    Raises:
        OSError: it cannot be mounted here; says why.
    """
    control = at.with_suffix(".control")
    drive = FaultyDrive(at, control)
    drive.set("none")
    at.mkdir()
    command = [sys.executable, __file__, str(source), str(at), str(control)]
    command += ["direct_io"] if direct_io else []
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while not os.path.ismount(at):
            if server.poll() is not None:
                assert server.stderr is not None
                last = server.stderr.read().strip().splitlines() or ["no reason given"]
                raise OSError(f"no file system of our own can be mounted: {last[-1]}")
            time.sleep(0.01)
        yield drive
    finally:
        drive.set("none")
        if os.path.ismount(at):
            subprocess.run(["umount", "-l", str(at)], check=True)
        server.terminate()
        server.wait(10)


def _serve(source: str, mountpoint: str, control: str, mode: str = "") -> None:
    import mfusepy

    lock = threading.Lock()

    class Files(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            try:
                found = os.stat(source + path)
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno) from error
            names = ("st_mode", "st_size", "st_nlink", "st_uid", "st_gid")
            return {name: getattr(found, name) for name in names} | {"st_mtime": found.st_mtime_ns}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(source + path)]

        def open(self, path: str, flags: int) -> int:
            return os.open(source + path, os.O_RDONLY)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            while (fault := Path(control).read_text()) == "hang":
                time.sleep(0.01)
            if fault == "once":
                with lock:
                    if Path(control).read_text() == "once":
                        Path(control).write_text("none")
                        raise mfusepy.FuseOSError(errno.EIO)
            if fault == "error":
                raise mfusepy.FuseOSError(errno.EIO)
            if fault == "slow":
                time.sleep(0.005)
            if fault == "short":
                size = min(size, 60_001)
            if fault == "crumbs":
                size = min(size, 1_001)
            return os.pread(fh, size, offset)

    mfusepy.FUSE(Files(), mountpoint, foreground=True, ro=True, direct_io=bool(mode))


if __name__ == "__main__":
    _serve(*sys.argv[1:])
