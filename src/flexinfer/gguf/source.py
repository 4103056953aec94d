"""Where a header's bytes come from, and a cursor over bytes that nobody vouches for."""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from typing import NoReturn, Protocol

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError
from flexinfer.gguf.names import in_folder, meant_by, part_of

# The largest vocabularies take about 20 MB of header.
HEADER_LIMIT = 128 << 20
_FIRST, _LARGEST = 64 << 10, 4 << 20
_RETRIES = 2
_BACKOFF_SECONDS = 0.02
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class Source(Protocol):
    """A file, or one on a hub that is read by ranges; `size` is in bytes."""

    name: str
    size: int

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Up to `nbytes` bytes from `offset`; none only at the end."""


class FileSource:
    """A local file as a `Source`.

    Raises:
        ModelNotFoundError: there is no such file, or it may not be read.
        ModelFileError: it is a directory or otherwise no regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            # Not blocking: a named pipe must not hang before it can be refused.
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            # What a socket answers, and a device that is not there.
            if getattr(error, "errno", None) == errno.ENXIO:
                raise ModelFileError(self._irregular) from error
            if not self.name:
                raise ModelNotFoundError(
                    "the path of the model is empty; give that of a GGUF file"
                ) from error
            raise ModelNotFoundError.of(self.name, error, meant_by(self.name)) from error
        status = os.fstat(self._fd)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            if stat.S_ISDIR(status.st_mode):
                raise ModelFileError(f"{self.name} is a directory; {in_folder(self.name)}")
            raise ModelFileError(self._irregular)

    @property
    def _irregular(self) -> str:
        return f"{self.name} is no regular file; give the path of a GGUF file"

    def read_at(self, offset: int, nbytes: int) -> bytes:
        for attempt in range(_RETRIES + 1):
            try:
                got = os.pread(self._fd, nbytes, offset)
            except OSError as error:
                if attempt == _RETRIES:
                    raise ReadError(
                        f"{self.name}: {nbytes} bytes at {offset} could not be read: "
                        f"{error.strerror}; check the drive"
                    ) from error
            else:
                # Only the size tells the end of a file: a mount may answer with nothing.
                if got or offset >= os.fstat(self._fd).st_size:
                    return got
            time.sleep(_BACKOFF_SECONDS * (attempt + 1))
        raise ReadError(
            f"{self.name}: no bytes come from byte {offset} on, though the file has {self.size}; "
            "check the drive or the mount"
        )

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cursor:
    """Takes little-endian values from `start` on, and fetches no more than they need.

    A length is held against the file and `HEADER_LIMIT` before anything is allocated for it.
    """

    def __init__(self, source: Source, start: int = 0) -> None:
        self.source = source
        self._start = start
        self._buffer = bytearray()
        self._at = 0

    @property
    def at(self) -> int:
        """Offset in the file."""
        return self._start + self._at

    @property
    def again(self) -> str:
        """What to do about a file that lacks bytes."""
        return part_of(self.source.name) or "download it again"

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def take(self, nbytes: int) -> bytes:
        start = self._at
        self.skip(nbytes)
        return bytes(self._buffer[start : self._at])

    def peek(self, nbytes: int) -> bytes:
        """Up to `nbytes` that come next; fewer where the file ends before."""
        stop = min(self._at + nbytes, self.source.size - self._start)
        self._fetch(stop)
        return bytes(self._buffer[self._at : stop])

    def skip(self, nbytes: int) -> None:
        stop = self._at + nbytes
        if stop > len(self._buffer):
            self._fetch(stop)
        self._at = stop

    def text(self, what: str) -> bytes:
        """A string with its length before it, as bytes."""
        at = self.at
        length = self.u64()
        self.require(length, 1, f"bytes in {what}", at)
        return self.take(length)

    def skip_texts(self, count: int, what: str) -> None:
        """Step over strings; a vocabulary has more of them than the rest of the header."""
        unpack = _U64.unpack_from
        at, buffer, have = self._at, self._buffer, len(self._buffer)
        for _ in range(count):
            if at + 8 > have:
                self._fetch(at + 8)
                have = len(buffer)
            (length,) = unpack(buffer, at)
            if length > HEADER_LIMIT:
                self.fail(f"a string in {what} has {length} bytes", self._start + at)
            at += 8 + length
        self._fetch(at)
        self._at = at

    def require(self, count: int, least: int, what: str, at: int) -> None:
        """Refuse `count` things of at least `least` bytes that the file has no room for."""
        if count * least > min(self.source.size - self.at, HEADER_LIMIT):
            self.fail(f"{count} {what} cannot fit in the file; {self.again}", at)

    def fail(self, what: str, at: int) -> NoReturn:
        raise ModelFileError(f"{self.source.name}: {what} (at byte {at})")

    def _fetch(self, stop: int) -> None:
        size = self.source.size
        if self._start + stop > size:
            self.fail(f"the header passes the end of the file, {size}; {self.again}", self.at)
        if stop > HEADER_LIMIT:
            self.fail(f"the header is larger than {HEADER_LIMIT} bytes; download it again", self.at)
        while len(self._buffer) < stop:
            have = len(self._buffer)
            wanted = max(stop - have, min(max(have, _FIRST), _LARGEST))
            got = self.source.read_at(self._start + have, wanted)
            if not got:
                self.fail(f"the file ended early; {self.again}", self._start + have)
            self._buffer += got
