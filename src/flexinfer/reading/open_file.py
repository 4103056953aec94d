"""Files opened for direct reads, past the page cache; buffered where that is refused."""

from __future__ import annotations

import errno
import mmap
import os
import random
import time
from collections.abc import Sequence
from enum import Enum

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError
from flexinfer.sizes import ALIGNMENT

_SAMPLES = 64
_RETRIES = 2
_BACKOFF_SECONDS = 0.02
# Asking again cannot help: a wrong descriptor, address or alignment, or no support.
_FINAL = {errno.EBADF, errno.EFAULT, errno.EINVAL, errno.EISDIR, errno.EOPNOTSUPP}


class Access(Enum):
    """How bytes come from the drive."""

    DIRECT = "direct"
    CLEAN = "buffered, dropped from the page cache"
    CACHED = "buffered"


class OpenFile:
    """One file, read at any place by any number of threads.

    Raises:
        ModelNotFoundError: there is no such file, or it may not be read.
        ModelFileError: it is not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str], *, cached: bool = False) -> None:
        self.path = os.fspath(path)
        self.fd, self.access = _open(self.path, cached)
        self._seen = self._state()

    def __repr__(self) -> str:
        return f"<OpenFile {self.path!r} {self.access.value if self.fd >= 0 else 'closed'}>"

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self._seen[0]

    def read(self, offset: int, view: memoryview, need: int) -> int:
        """Fill `view` from byte `offset`; the file may end once `need` bytes are there.

        Returns the bytes read.

        Raises:
            ReadError: the drive failed, after two more attempts, or the file is too short.
        """
        got = empty = 0
        while got < need:
            count = self._read_once(offset + got, view[got:] if got else view)
            got += count
            if got >= need:
                break
            empty = 0 if count else empty + 1
            self._require_more(offset, got, need, empty)
            # A drive of blocks stops within one only at the end of the file, but what comes over
            # a network may stop anywhere: begin the block again, unless it is all that came.
            block = got // ALIGNMENT * ALIGNMENT
            if self.access is Access.DIRECT and block > got - count:
                got = block
        if self.access is Access.CLEAN:
            os.posix_fadvise(self.fd, offset, got, os.POSIX_FADV_DONTNEED)
        return got

    def check(self) -> None:
        """Compare size and time of change with what was seen at first.

        Raises:
            ReadError: the file was truncated or written to.
        """
        size, changed = self._state()
        if size != self._seen[0]:
            raise ReadError(
                f"{self.path}: the file had {self._seen[0]} bytes and has {size} now; "
                "open the model again"
            )
        if changed != self._seen[1]:
            raise ReadError(f"{self.path}: the file was written to; open the model again")

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _state(self) -> tuple[int, int]:
        stat = os.fstat(self.fd)
        return stat.st_size, stat.st_mtime_ns

    def _require_more(self, offset: int, got: int, need: int, empty: int) -> None:
        """Raise `ReadError` where a read that stopped early is not to be continued.

        Only the size tells the end of a file. `empty` is how many reads in a row gave nothing.
        """
        size = self._state()[0]
        if offset + got >= size:
            raise ReadError(
                f"{self.path}: the file ends at byte {size}, but {need} bytes are needed from "
                f"{offset}: it was truncated; fetch it again"
            )
        if empty > _RETRIES:
            raise ReadError(
                f"{self.path}: no bytes come from byte {offset + got} on, though the file has "
                f"{size}; check the drive or the mount"
            )
        if empty:
            time.sleep(_BACKOFF_SECONDS * empty)

    def _read_once(self, offset: int, view: memoryview) -> int:
        for attempt in range(_RETRIES + 1):
            try:
                return os.preadv(self.fd, [view], offset)
            except OSError as error:
                if error.errno in _FINAL or attempt == _RETRIES:
                    raise ReadError(
                        f"{self.path}: reading {len(view)} bytes at {offset} failed: "
                        f"{error.strerror}; check the drive"
                    ) from error
                time.sleep(_BACKOFF_SECONDS * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")


def cached_fraction(paths: Sequence[str | os.PathLike[str]]) -> float:
    """Share of the files' bytes in the page cache, from samples; nothing is read from the drive.

    Returns 0.0 where the file system cannot tell.
    """
    sizes = [os.path.getsize(path) for path in paths]
    total = sum(sizes)
    files = zip(paths, sizes, strict=True)
    return sum(_cached(path, size) * size / total for path, size in files if size)


def _cached(path: str | os.PathLike[str], size: int) -> float:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A miss may make the kernel fetch that page: ask for single ones, at other places each
        # time, so that no answer comes from an earlier question.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        places = [int(size * (n + random.random()) / _SAMPLES) for n in range(_SAMPLES)]
        return sum(_is_cached(fd, place) for place in places) / len(places)
    finally:
        os.close(fd)


def _is_cached(fd: int, place: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], place, os.RWF_NOWAIT) > 0
    except OSError:
        return False


def _open(path: str, cached: bool) -> tuple[int, Access]:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        if os.path.isdir(path):
            raise ModelFileError(f"{path} is a directory; give a file")
        if cached:
            return os.open(path, flags), Access.CACHED
        fd = _open_direct(path, flags)
        if fd is not None:
            return fd, Access.DIRECT
        fd = os.open(path, flags)
    except OSError as error:
        raise ModelNotFoundError.of(path, error, "give the path of a file") from error
    # Reading ahead would leave pages behind that no piece drops.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    return fd, Access.CLEAN


def _open_direct(path: str, flags: int) -> int | None:
    """A descriptor for direct reads, or None where the file system refuses them."""
    try:
        fd = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return None
        raise
    # Some accept the flag and refuse the read, or want a larger alignment than ours.
    with mmap.mmap(-1, ALIGNMENT) as block, memoryview(block) as view:
        try:
            os.preadv(fd, [view], 0)
        except OSError:
            os.close(fd)
            return None
    return fd
