"""Copies of a model on other drives: found, and compared with it before anything is read there."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from flexinfer.errors import ModelFileError, ModelNotFoundError, RequestError
from flexinfer.gguf.catalogue import Catalogue, shards_of
from flexinfer.gguf.source import FileSource

# Paths of a copy's files, in the order of the model's.
Mirror = tuple[str, ...]

_SAMPLES = 32
_SAMPLE_BYTES = 16 << 10
_BLOCK_BYTES = 1 << 20


def find_mirrors(
    catalogue: Catalogue, places: Sequence[str | os.PathLike[str]]
) -> tuple[Mirror, ...]:
    """The copies of the model at these places, each compared with it.

    Sizes and headers have to be the same, and so have pieces here and there, others each time.

    Args:
        places: of each copy its file, the first one when it is split, or their folder.

    Raises:
        ModelNotFoundError: a file is missing or may not be read.
        ModelFileError: it is no copy: where it differs.
        RequestError: it is the model itself, or given twice.
        ReadError: a drive failed.
    """
    known = {_identity(path): path for path in catalogue.paths if os.path.exists(path)}
    if not known:
        return ()  # it is not on this machine: nothing is read, and nothing can be compared
    mirrors = []
    for place in places:
        mirror = _files(catalogue, os.fspath(place))
        for path, original in zip(mirror, catalogue.paths, strict=True):
            with _open(path, original) as copy, FileSource(original) as source:
                _check_new(known, path)
                _compare(catalogue, source, copy)
        mirrors.append(mirror)
    return tuple(mirrors)


def _files(catalogue: Catalogue, place: str) -> Mirror:
    if os.path.isdir(place):
        return tuple(os.path.join(place, os.path.basename(path)) for path in catalogue.paths)
    if len(catalogue.paths) == 1:
        return (place,)
    shards = shards_of(place, len(catalogue.paths))
    if shards is None:
        raise RequestError(
            f"{place}: the model has {len(catalogue.paths)} files; give the first of its copy, or "
            "their folder"
        )
    return tuple(shards)


def _open(path: str, original: str) -> FileSource:
    try:
        return FileSource(path)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"the mirror of {original} cannot be read: {error}") from error


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _check_new(known: dict[tuple[int, int], str], path: str) -> None:
    """Note the file, which has to be another one than those `known`."""
    identity = _identity(path)
    other = known.get(identity)
    if other is not None:
        raise RequestError(
            f"{path} is the same file as {other}, which is read already; give a copy on another "
            "drive"
        )
    known[identity] = path


def _compare(catalogue: Catalogue, source: FileSource, copy: FileSource) -> None:
    if copy.size != source.size:
        raise ModelFileError(
            f"{copy.name} is no copy of {source.name}: it has {copy.size} bytes instead of "
            f"{source.size}; copy the model again"
        )
    number = catalogue.paths.index(source.name)
    offsets = [tensor.offset for tensor in catalogue.tensors if tensor.file == number]
    header = min(offsets, default=source.size)
    for what, ranges in (("header", _blocks(header)), ("weights", _samples(header, source.size))):
        for offset, nbytes in ranges:
            if _read(source, offset, nbytes) != _read(copy, offset, nbytes):
                raise ModelFileError(
                    f"{copy.name} is no copy of {source.name}: its {what} differ between bytes "
                    f"{offset} and {offset + nbytes}; copy the model again"
                )


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    edges = [*range(0, size, _BLOCK_BYTES), size]
    return ((start, stop - start) for start, stop in pairwise(edges))


def _samples(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Ranges of (offset, bytes) spread over the weights; the last ends with the file."""
    room = max(stop - start - _SAMPLE_BYTES, 0)
    for number in range(_SAMPLES):
        yield start + int(room * (number + random.random()) / _SAMPLES), _SAMPLE_BYTES
    yield start + room, _SAMPLE_BYTES


def _read(source: FileSource, offset: int, nbytes: int) -> bytes:
    """The bytes, fewer where the file ends."""
    parts, got = [], 0
    while got < nbytes and (part := source.read_at(offset + got, nbytes - got)):
        parts.append(part)
        got += len(part)
    return b"".join(parts)
