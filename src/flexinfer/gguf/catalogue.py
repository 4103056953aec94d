"""GGUF models: the catalogue of tensors and metadata over all files. No weight is read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flexinfer.errors import ModelFileError, ModelNotFoundError
from flexinfer.gguf.header import parse_header
from flexinfer.gguf.source import FileSource, Source
from flexinfer.gguf.types import QuantType, TensorInfo, shard_names

_MAX_SHARDS = 1024
_SHARD = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z", re.DOTALL)


@dataclass(frozen=True)
class Catalogue:
    """All tensors and metadata of one model; `paths` and `sizes` (bytes) go together."""

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]

    @property
    def types(self) -> dict[str, QuantType]:
        """The type of each tensor, by name."""
        return {tensor.name: tensor.type for tensor in self.tensors}

    @property
    def form(self) -> str:
        """Names the model in what is remembered: its files may move and stay the same."""
        return f"{self.architecture} {self.nbytes} bytes {len(self.tensors)} tensors"

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
        return self._by_name.get(name)

    def parameter(self, key: str, default: Any = None) -> Any:
        """The metadata entry ``<architecture>.<key>``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}


def read_catalogue(path: str | os.PathLike[str]) -> Catalogue:
    """Read the header of a GGUF model, and of all its shards when it is split.

    Raises:
        ModelNotFoundError: a file is missing or may not be read.
        ModelFileError: what is wrong, in which file, at which byte.
        ReadError: the drive failed.
    """
    with FileSource(path) as source:
        first = read_header(source)
    paths = shard_paths(first)
    parts = [first]
    for number, shard in enumerate(paths[1:], 1):
        with _open_shard(shard, number, len(paths)) as source:
            parts.append(read_header(source, file=number))
    return join_shards(parts)


def read_header(source: Source, *, file: int = 0) -> Catalogue:
    """Read one file's header; `file` is the number that its tensors get.

    Raises:
        ModelFileError: what is wrong, and at which byte.
        ReadError: the source failed.
    """
    metadata, tensors = parse_header(source, file)
    return Catalogue((source.name,), (source.size,), MappingProxyType(metadata), tensors)


def shard_paths(first: Catalogue) -> list[str]:
    """Paths of all files of the model whose first file this is, in order.

    Raises:
        ModelFileError: it is not the first, or the names do not tell the others.
    """
    path = first.paths[0]
    count = _integer(first, "split.count", 0)
    if count <= 1:
        return [path]
    if count > _MAX_SHARDS:
        raise ModelFileError(f"{path}: split.count is {count}, more than {_MAX_SHARDS}")
    names = shards_of(path, count)
    if names is None:
        raise ModelFileError(
            f"{path} is one of {count} shards but is not named like "
            f"model-00001-of-{count:05}.gguf; give the shards their original names"
        )
    number = _integer(first, "split.no", None)
    if number != 0 or path != names[0]:
        raise ModelFileError(
            f"{path} is shard {number + 1} of {count}; give the path of the first, {names[0]}"
        )
    return names


def shards_of(path: str, count: int) -> list[str] | None:
    """Paths of all `count` shards, of which `path` names one; None where it does not."""
    match = _SHARD.match(path)
    if match is None or int(match["count"]) != count:
        return None
    return shard_names(match["prefix"], count)


def join_shards(parts: Sequence[Catalogue]) -> Catalogue:
    """One catalogue of all files of a model, in order.

    Raises:
        ModelFileError: the files contradict each other, or they are no model.
    """
    first = parts[0]
    seen: set[str] = set()
    for number, part in enumerate(parts):
        path = part.paths[0]
        if number and _integer(part, "split.no", None) != number:
            raise ModelFileError(
                f"{path} is not shard {number + 1} of {len(parts)}; download it again"
            )
        for tensor in part.tensors:
            if tensor.name in seen:
                raise ModelFileError(f"{path}: tensor {tensor.name} is in another shard as well")
            seen.add(tensor.name)
    _require_model(first, len(seen))
    return Catalogue(
        paths=tuple(part.paths[0] for part in parts),
        sizes=tuple(part.sizes[0] for part in parts),
        metadata=first.metadata,
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
    )


def _require_model(first: Catalogue, tensors: int) -> None:
    path = first.paths[0]
    announced = _integer(first, "split.tensors.count", tensors)
    if announced != tensors:
        raise ModelFileError(
            f"{path}: the shards hold {tensors} tensors but {announced} were announced; "
            "download them again"
        )
    if not tensors:
        raise ModelFileError(f"{path} holds no tensors: it is a vocabulary, not a model")
    architecture = first.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.isprintable():
        raise ModelFileError(f"{path} does not name its architecture; convert the model again")


def _integer(part: Catalogue, key: str, default: int | None) -> int:
    value = part.metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ModelFileError(
            f"{part.paths[0]}: {key} is {value!r}, not a number of shards; download it again"
        )
    return value


def _open_shard(path: str, number: int, count: int) -> FileSource:
    try:
        return FileSource(path)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"shard {number + 1} of {count} is missing: {error}; download it beside the first"
        ) from error
