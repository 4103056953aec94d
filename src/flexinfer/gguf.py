"""GGUF headers: the catalogue of a model's tensors, and its metadata.

Reads GGUF versions 2 and 3, little endian, in one file or in shards. A header is hostile until
proven otherwise: every count and length is held against the bytes that are there before anything
is allocated for it, and each rejection names the place. No weight is read.

Format: ``ggml/docs/gguf.md`` and ``ggml/src/gguf.cpp`` of llama.cpp.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flexinfer.errors import ModelFileError, ModelNotFoundError
from flexinfer.gguf_types import QUANT_TYPES, SCALARS, QuantType

MAGIC = b"GGUF"
_STRING, _ARRAY, _BOOL = 8, 9, 7
_MAX_NAME = 64
_MAX_DIMS = 4
_MAX_ELEMENTS = 1 << 62
_MAX_SHARDS = 1024
_CHUNK = 1 << 20
_SHARD = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z")


class Source(Protocol):
    """Bytes of a header: a file, or a file on a hub that is read by ranges."""

    name: str
    size: int

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Up to `nbytes` bytes from `offset`; fewer only at the end."""


class FileSource:
    """A local file as a `Source`.

    Raises:
        ModelNotFoundError: there is no such file, or it may not be read.
        ModelFileError: it is a directory or otherwise no regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ModelNotFoundError(
                f"{self.name}: {(error.strerror or 'cannot be opened').lower()}; give the path "
                "of a GGUF file that you may read"
            ) from error
        status = os.fstat(self._fd)
        self.size = status.st_size
        if status.st_mode & 0o170000 != 0o100000:
            self.close()
            raise ModelFileError(f"{self.name} is no regular file; give the path of a GGUF file")

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return os.pread(self._fd, nbytes, offset)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file; `shape` is in ggml's order, row length first.

    `offset` is in bytes from the start of file number `file`.
    """

    name: str
    type: QuantType
    shape: tuple[int, ...]
    file: int
    offset: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        return self.shape[0] // self.type.block * self.type.nbytes

    @property
    def rows(self) -> int:
        rows = 1
        for n in self.shape[1:]:
            rows *= n
        return rows


@dataclass(frozen=True)
class ArrayValue:
    """An array of the metadata that was stepped over; `values` reads it."""

    type: int
    length: int
    offset: int
    _data: bytes = field(repr=False, compare=False)

    def values(self) -> list[Any]:
        """All entries, decoded."""
        if self.type == _STRING:
            return list(self._strings())
        code, size = SCALARS[self.type]
        raw = struct.unpack_from(f"<{self.length}{code}", self._data)
        return [bool(v) for v in raw] if self.type == _BOOL else list(raw)

    def _strings(self) -> Iterator[str]:
        at = 0
        for _ in range(self.length):
            (n,) = struct.unpack_from("<Q", self._data, at)
            yield self._data[at + 8 : at + 8 + n].decode("utf-8", "replace")
            at += 8 + n


@dataclass(frozen=True)
class Catalogue:
    """All tensors and metadata of one model, over all its files."""

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def name(self) -> str:
        return str(self.metadata.get("general.name", Path(self.paths[0]).stem))

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def get(self, name: str) -> TensorInfo | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def parameter(self, key: str, default: Any = None) -> Any:
        """The metadata entry ``<architecture>.<key>``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_catalogue(path: str | os.PathLike[str]) -> Catalogue:
    """Read the header of a GGUF file, and of all its shards when it is split.

    Raises:
        ModelNotFoundError: a file is missing or may not be read.
        ModelFileError: what is wrong, in which file, at which byte.
    """
    with FileSource(path) as source:
        first = read_header(source)
    paths = shard_paths(os.fspath(path), first.metadata)
    if len(paths) == 1:
        return first
    parts = []
    for number, shard in enumerate(paths):
        with FileSource(shard) as source:
            parts.append(read_header(source, file=number))
    return join_shards(parts)


def read_header(source: Source, *, file: int = 0) -> Catalogue:
    """Read one file's header; `file` is the number its tensors get.

    Raises:
        ModelFileError: what is wrong and at which byte.
    """
    return _Header(source, file).read()


def shard_paths(path: str, metadata: Mapping[str, Any]) -> list[str]:
    """Paths of all files of the model that `path` belongs to, in order.

    Raises:
        ModelFileError: the metadata and the name contradict each other.
    """
    count = metadata.get("split.count", 1)
    if not isinstance(count, int) or not 0 <= count <= _MAX_SHARDS:
        raise ModelFileError(f"{path}: split.count is {count!r}; download the file again")
    if count <= 1:
        return [path]
    match = _SHARD.match(path)
    if match is None or int(match["count"]) != count:
        raise ModelFileError(
            f"{path} is one of {count} shards but is not named like ...-00001-of-{count:05}.gguf; "
            "give the shards their original names"
        )
    if metadata.get("split.no", 0) != 0:
        raise ModelFileError(
            f"{path} is shard {metadata['split.no'] + 1} of {count}; give the path of the first, "
            f"{match['prefix']}-00001-of-{count:05}.gguf"
        )
    return [f"{match['prefix']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]


def join_shards(parts: list[Catalogue]) -> Catalogue:
    """One catalogue of all shards, in order.

    Raises:
        ModelFileError: a shard is out of place, or a tensor is in two of them.
    """
    seen: set[str] = set()
    for number, part in enumerate(parts):
        path = part.paths[0]
        if part.metadata.get("split.no") != number:
            raise ModelFileError(f"{path} is not shard {number + 1}; check the names of the shards")
        for tensor in part.tensors:
            if tensor.name in seen:
                raise ModelFileError(f"{path}: {tensor.name} is in another shard as well")
            seen.add(tensor.name)
    expected = parts[0].metadata.get("split.tensors.count", len(seen))
    if expected != len(seen):
        raise ModelFileError(
            f"{parts[0].paths[0]}: the shards hold {len(seen)} tensors, {expected} were announced"
        )
    return Catalogue(
        paths=tuple(part.paths[0] for part in parts),
        sizes=tuple(part.sizes[0] for part in parts),
        metadata=parts[0].metadata,
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
    )


class _Header:
    """Parser of one header: a cursor over bytes that are fetched as far as needed."""

    def __init__(self, source: Source, file: int) -> None:
        self._source = source
        self._file = file
        self._buffer = bytearray()
        self._at = 0

    def read(self) -> Catalogue:
        if self._take(4) != MAGIC:
            raise self._error("the file is no GGUF (wrong magic)", 0)
        version = self._u32()
        if version not in (2, 3):
            raise self._error(f"GGUF version {version} is not supported (2 and 3 are)", 4)
        n_tensors, n_keys = self._u64(), self._u64()
        # A tensor takes at least 32 bytes of header, a key at least 13.
        self._require_count(n_tensors, 32, "tensors", 8)
        self._require_count(n_keys, 13, "metadata keys", 16)
        metadata = self._metadata(n_keys)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._error(f"general.alignment is {alignment!r}, not a power of two")
        entries = self._tensor_entries(n_tensors)
        data = -(-self._at // alignment) * alignment
        return Catalogue(
            paths=(self._source.name,),
            sizes=(self._source.size,),
            metadata=metadata,
            tensors=tuple(self._place(entries, data, alignment)),
        )

    # -- metadata -----------------------------------------------------------------------------

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            at = self._at
            key = self._string("a metadata key")
            if key in metadata:
                raise self._error(f"metadata key {key!r} is there twice", at)
            metadata[key] = self._value(self._u32(), key)
        return metadata

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind == _ARRAY:
            return self._array(key)
        return self._scalar(kind, key)

    def _scalar(self, kind: int, key: str) -> Any:
        if kind not in SCALARS:
            raise self._error(f"metadata key {key!r} has the unknown type {kind}", self._at - 4)
        code, size = SCALARS[kind]
        (value,) = struct.unpack(f"<{code}", self._take(size))
        return bool(value) if kind == _BOOL else value

    def _array(self, key: str) -> ArrayValue:
        kind, length = self._u32(), self._u64()
        start = self._at
        if kind == _STRING:
            self._require_count(length, 8, f"strings in {key!r}", start - 8)
            self._skip_strings(length, key)
        elif kind in SCALARS:
            size = SCALARS[kind][1]
            self._require_count(length, size, f"values in {key!r}", start - 8)
            self._take(length * size)
        else:
            raise self._error(f"metadata key {key!r} is an array of type {kind}", start - 12)
        return ArrayValue(kind, length, start, bytes(self._buffer[start : self._at]))

    def _skip_strings(self, count: int, key: str) -> None:
        unpack = struct.Struct("<Q").unpack_from
        at, size = self._at, self._source.size
        for _ in range(count):
            if at + 8 > len(self._buffer):
                self._fetch(at + 8)
            (n,) = unpack(self._buffer, at)
            if n > size - at - 8:
                raise self._error(f"a string in {key!r} passes the end of the file", at)
            at += 8 + n
        self._fetch(at)
        self._at = at

    # -- tensors ------------------------------------------------------------------------------

    def _tensor_entries(self, count: int) -> list[tuple[str, QuantType, tuple[int, ...], int]]:
        entries = []
        names: set[str] = set()
        for _ in range(count):
            at = self._at
            name = self._string("a tensor name")
            if not name or len(name.encode()) >= _MAX_NAME:
                raise self._error(f"tensor name {name[:80]!r} is not 1 to 63 bytes long", at)
            if name in names:
                raise self._error(f"tensor {name} is there twice", at)
            names.add(name)
            entries.append((name, *self._shape_and_type(name), self._u64()))
        return entries

    def _shape_and_type(self, name: str) -> tuple[QuantType, tuple[int, ...]]:
        at = self._at
        dims = self._u32()
        if not 1 <= dims <= _MAX_DIMS:
            raise self._error(f"tensor {name} has {dims} dimensions (1 to 4 are allowed)", at)
        shape = struct.unpack(f"<{dims}Q", self._take(8 * dims))
        elements = 1
        for n in shape:
            elements *= n
            if not 0 < n < _MAX_ELEMENTS or elements >= _MAX_ELEMENTS:
                raise self._error(f"tensor {name} has the impossible shape {list(shape)}", at)
        number = self._u32()
        quant = QUANT_TYPES.get(number)
        if quant is None:
            raise self._error(f"tensor {name} has the unknown type {number}", self._at - 4)
        if shape[0] % quant.block:
            raise self._error(
                f"tensor {name}: rows of {shape[0]} do not divide into blocks of {quant.block} "
                f"({quant.name})",
                at,
            )
        return quant, shape

    def _place(
        self,
        entries: list[tuple[str, QuantType, tuple[int, ...], int]],
        data: int,
        alignment: int,
    ) -> Iterator[TensorInfo]:
        expected = 0
        for name, quant, shape, offset in entries:
            elements = 1
            for n in shape:
                elements *= n
            nbytes = elements // quant.block * quant.nbytes
            # llama.cpp accepts no gaps and no other order either.
            if offset != expected:
                raise self._error(
                    f"tensor {name} starts at {offset} of the data section, expected {expected}"
                )
            if data + offset + nbytes > self._source.size:
                raise self._error(
                    f"tensor {name} ends at byte {data + offset + nbytes} but the file has "
                    f"{self._source.size}: it was truncated; download it again",
                    None,
                )
            yield TensorInfo(name, quant, shape, self._file, data + offset, nbytes)
            expected = -(-(offset + nbytes) // alignment) * alignment

    # -- the cursor ---------------------------------------------------------------------------

    def _fetch(self, stop: int) -> None:
        """Have all bytes before `stop` in the buffer."""
        while len(self._buffer) < stop:
            if stop > self._source.size:
                raise self._error(
                    f"the header ends at byte {self._source.size}: the file was truncated; "
                    "download it again",
                    None,
                )
            wanted = max(stop - len(self._buffer), min(len(self._buffer) + 4096, _CHUNK))
            got = self._source.read_at(len(self._buffer), wanted)
            if not got:
                raise self._error("the file ended early; download it again", len(self._buffer))
            self._buffer += got

    def _take(self, nbytes: int) -> bytes:
        stop = self._at + nbytes
        self._fetch(stop)
        taken = bytes(self._buffer[self._at : stop])
        self._at = stop
        return taken

    def _u32(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def _u64(self) -> int:
        return int.from_bytes(self._take(8), "little")

    def _string(self, what: str) -> str:
        at = self._at
        length = self._u64()
        self._require_count(length, 1, f"bytes in {what}", at)
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise self._error(f"{what} is not UTF-8", at + 8) from error

    def _require_count(self, count: int, least: int, what: str, at: int) -> None:
        if count * least > self._source.size - self._at:
            raise self._error(f"{count} {what} cannot fit in the file; download it again", at)

    def _error(self, what: str, at: int | None = -1) -> ModelFileError:
        place = "" if at is None else f" (at byte {self._at if at < 0 else at})"
        return ModelFileError(f"{self._source.name}: {what}{place}")
