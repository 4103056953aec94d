"""Copies of a model, on other drives or packed: found, compared with it before they are read."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from flexinfer.errors import ModelFileError, ModelNotFoundError, RequestError
from flexinfer.gguf.catalogue import Catalogue, shards_of
from flexinfer.gguf.packed_file import MARK, read_packed_names
from flexinfer.gguf.source import FileSource
from flexinfer.gguf.types import TensorInfo

_SAMPLES = 32
_SAMPLE_BYTES = 16 << 10
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Mirror:
    """A copy of a model.

    Attributes:
        paths: of its files, in the order of the model's.
        packed: names of the weights that it has in the order of packed kernels.
    """

    paths: tuple[str, ...]
    packed: frozenset[str] = frozenset()


def find_mirrors(
    catalogue: Catalogue, places: Sequence[str | os.PathLike[str]]
) -> tuple[Mirror, ...]:
    """The copies of the model at these places, each compared with it.

    Sizes and headers have to be the same, and so have pieces here and there, others each time; of
    what is packed only who packs can say.

    Args:
        places: of each copy its file, the first one when it is split, or their folder.

    Raises:
        ModelNotFoundError: a file is missing or may not be read.
        ModelFileError: it is no copy: where it differs.
        RequestError: it is the model itself, or given twice, or some are packed and some are not.
        ReadError: a drive failed.
    """
    known = {_identity(path): path for path in catalogue.paths if os.path.exists(path)}
    if not known:
        return ()  # it is not on this machine: nothing is read, and nothing can be compared
    mirrors = []
    for place in places:
        paths = _files(catalogue, os.fspath(place))
        packed: set[str] = set()
        for path, original in zip(paths, catalogue.paths, strict=True):
            with _open(path, original) as copy, FileSource(original) as source:
                _check_new(known, path)
                packed |= _compare(catalogue, source, copy)
        mirrors.append(Mirror(paths, frozenset(packed)))
    _check_alike(mirrors)
    return tuple(mirrors)


def _files(catalogue: Catalogue, place: str) -> tuple[str, ...]:
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


def _check_alike(mirrors: Sequence[Mirror]) -> None:
    """Refuse copies of which not all have the same weights packed: a read may go to any of them."""
    for mirror in mirrors[1:]:
        if mirror.packed != mirrors[0].packed:
            raise RequestError(
                f"{mirror.paths[0]} and {mirrors[0].paths[0]} do not have the same weights packed; "
                "give copies that one flexinfer pack wrote, or plain ones"
            )


def _compare(catalogue: Catalogue, source: FileSource, copy: FileSource) -> frozenset[str]:
    """Names of the weights of this file that the copy has packed."""
    packed = read_packed_names(copy, source.size)
    if packed is None and copy.size != source.size:
        raise ModelFileError(
            f"{copy.name} is no copy of {source.name}: it has {copy.size} bytes instead of "
            f"{source.size}; copy the model again"
        )
    number = catalogue.paths.index(source.name)
    tensors = [tensor for tensor in catalogue.tensors if tensor.file == number]
    header = min((tensor.offset for tensor in tensors), default=source.size)
    weights = _samples(header, source.size)
    if packed is not None:
        plain = [tensor for tensor in tensors if tensor.name not in packed]
        weights = (one for tensor in plain for one in _ends(tensor))
    start = 0 if packed is None else len(MARK)
    again = "copy the model again" if packed is None else "write it again with flexinfer pack"
    for what, ranges in (("header", _blocks(start, header)), ("weights", weights)):
        for offset, nbytes in ranges:
            if _read(source, offset, nbytes) != _read(copy, offset, nbytes):
                raise ModelFileError(
                    f"{copy.name} is no copy of {source.name}: its {what} differ between bytes "
                    f"{offset} and {offset + nbytes}; {again}"
                )
    return packed or frozenset()


def _blocks(first: int, size: int) -> Iterator[tuple[int, int]]:
    edges = [*range(first, size, _BLOCK_BYTES), size]
    return ((start, stop - start) for start, stop in pairwise(edges))


def _samples(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Ranges of (offset, bytes) spread over the weights; the last ends with the file."""
    room = max(stop - start - _SAMPLE_BYTES, 0)
    for number in range(_SAMPLES):
        yield start + int(room * (number + random.random()) / _SAMPLES), _SAMPLE_BYTES
    yield start + room, _SAMPLE_BYTES


def _ends(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    nbytes = min(tensor.nbytes, _SAMPLE_BYTES)
    yield tensor.offset, nbytes
    yield tensor.offset + tensor.nbytes - nbytes, nbytes


def _read(source: FileSource, offset: int, nbytes: int) -> bytes:
    """The bytes, fewer where the file ends."""
    parts, got = [], 0
    while got < nbytes and (part := source.read_at(offset + got, nbytes - got)):
        parts.append(part)
        got += len(part)
    return b"".join(parts)
