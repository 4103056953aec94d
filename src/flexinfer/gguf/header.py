"""One file's GGUF header, read without trust.

Versions 2 and 3, little endian. What llama.cpp refuses is refused here, with the place named.
Format: ``ggml/src/gguf.cpp`` of llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from flexinfer.errors import ModelFileError
from flexinfer.gguf.names import part_of
from flexinfer.gguf.source import Cursor, Source
from flexinfer.gguf.strangers import name_stranger
from flexinfer.gguf.types import (
    ARRAY,
    BOOL,
    QUANT_TYPES,
    SCALARS,
    STRING,
    U32,
    ArrayValue,
    QuantType,
    TensorInfo,
)

MAGIC = b"GGUF"
_HEAD_BYTES = 4096
# Far above any model; each entry becomes a Python object.
_MAX_ENTRIES = 1 << 17
_MAX_NAME = 63
_MAX_DIMS = 4
_MAX_ELEMENTS = (1 << 63) - 1
# The least that a metadata entry and a tensor entry can take.
_KEY_BYTES, _TENSOR_BYTES = 14, 33


@dataclass(frozen=True)
class _Entry:
    at: int
    name: str
    type: QuantType
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) // self.type.block * self.type.nbytes


def parse_header(source: Source, file: int) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
    """Metadata and tensors; `file` is the number that the tensors get.

    Raises:
        ModelFileError: what is wrong, and at which byte.
        ReadError: the source failed.
    """
    cursor = Cursor(source)
    _require_version(cursor)
    n_tensors = _count(cursor, _TENSOR_BYTES, "tensors")
    n_keys = _count(cursor, _KEY_BYTES, "metadata keys")
    metadata = _metadata(cursor, n_keys)
    entries = _entries(cursor, n_tensors)
    alignment = metadata.get("general.alignment", 32)
    return metadata, tuple(_placed(cursor, entries, alignment, file))


def _require_version(cursor: Cursor) -> None:
    if cursor.peek(len(MAGIC)) != MAGIC:
        what, todo = name_stranger(cursor.peek(_HEAD_BYTES), cursor.source.size)
        part = part_of(cursor.source.name)
        raise ModelFileError(f"{cursor.source.name} is {what}; {part or todo}")
    cursor.take(len(MAGIC))
    version = cursor.u32()
    if version not in (2, 3):
        if version and not version & 0xFFFF:
            cursor.fail("the file is big endian; convert it to little endian", 4)
        cursor.fail(f"GGUF version {version} is not supported, only 2 and 3", 4)


def _count(cursor: Cursor, least: int, what: str) -> int:
    at = cursor.at
    count = cursor.u64()
    cursor.require(count, least, what, at)
    if count > _MAX_ENTRIES:
        cursor.fail(f"{count} {what} are more than the {_MAX_ENTRIES} that are supported", at)
    return count


# -- metadata ---------------------------------------------------------------------------------


def _metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        at = cursor.at
        key = _name(cursor, "a metadata key")
        if key in metadata:
            cursor.fail(f"the metadata key {key} is there twice", at)
        kind = cursor.u32()
        metadata[key] = _value(cursor, kind, key)
        if key == "general.alignment":
            _require_alignment(cursor, kind, metadata[key], at)
    return metadata


def _require_alignment(cursor: Cursor, kind: int, value: Any, at: int) -> None:
    if kind != U32 or value < 1 or value & (value - 1):
        cursor.fail(f"general.alignment is {value!r}, not a power of two of type u32", at)


def _value(cursor: Cursor, kind: int, key: str) -> Any:
    if kind == STRING:
        return cursor.text(key).decode("utf-8", "replace")
    if kind == ARRAY:
        return _array(cursor, key)
    if kind not in SCALARS:
        cursor.fail(f"{key} has the unknown type {kind}", cursor.at - 4)
    code, nbytes = SCALARS[kind]
    (value,) = struct.unpack(f"<{code}", cursor.take(nbytes))
    return bool(value) if kind == BOOL else value


def _array(cursor: Cursor, key: str) -> ArrayValue:
    at = cursor.at
    kind, length = cursor.u32(), cursor.u64()
    start = cursor.at
    if kind == STRING:
        cursor.require(length, 8, f"strings in {key}", at + 4)
        cursor.skip_texts(length, key)
    elif kind in SCALARS:
        nbytes = SCALARS[kind][1]
        cursor.require(length, nbytes, f"values in {key}", at + 4)
        cursor.skip(length * nbytes)
    else:
        what = "nested arrays" if kind == ARRAY else f"the unknown type {kind}"
        cursor.fail(f"{key} has {what}, which cannot be read", at)
    return ArrayValue(kind, length, start)


def read_array(source: Source, array: ArrayValue) -> list[Any]:
    """All entries of an array that `source`'s header has stepped over.

    Raises:
        ModelFileError: the file has changed since.
        ReadError: the source failed.
    """
    cursor = Cursor(source, array.offset)
    if array.type == STRING:
        texts = (cursor.text("an array") for _ in range(array.length))
        return [text.decode("utf-8", "replace") for text in texts]
    code, nbytes = SCALARS[array.type]
    values = struct.unpack(f"<{array.length}{code}", cursor.take(array.length * nbytes))
    return [bool(v) for v in values] if array.type == BOOL else list(values)


def _name(cursor: Cursor, what: str) -> str:
    at = cursor.at
    raw = cursor.text(what)
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        cursor.fail(f"{what} is not UTF-8", at)
    if not name:
        cursor.fail(f"{what} is empty", at)
    if not name.isprintable():  # names are parts of messages, which are one line
        cursor.fail(f"{what} has characters that cannot be printed: {name[:80]!r}", at)
    return name


# -- tensors ----------------------------------------------------------------------------------


def _entries(cursor: Cursor, count: int) -> list[_Entry]:
    entries = []
    names: set[str] = set()
    for _ in range(count):
        at = cursor.at
        name = _name(cursor, "a tensor name")
        if len(name.encode()) > _MAX_NAME:
            cursor.fail(f"the tensor name {name[:80]!r} is longer than {_MAX_NAME} bytes", at)
        if name in names:
            cursor.fail(f"tensor {name} is there twice", at)
        names.add(name)
        shape = _shape(cursor, name)
        quant = _quant(cursor, name, shape[0])
        entries.append(_Entry(at, name, quant, shape, cursor.u64()))
    return entries


def _shape(cursor: Cursor, name: str) -> tuple[int, ...]:
    at = cursor.at
    dims = cursor.u32()
    if dims > _MAX_DIMS:
        cursor.fail(f"tensor {name} has {dims} dimensions, more than {_MAX_DIMS}", at)
    shape: tuple[int, ...] = struct.unpack(f"<{dims}Q", cursor.take(8 * dims)) or (1,)
    if not 0 < prod(shape) <= _MAX_ELEMENTS:
        cursor.fail(f"tensor {name} has the impossible shape {list(shape)}", at)
    return shape


def _quant(cursor: Cursor, name: str, width: int) -> QuantType:
    at = cursor.at
    number = cursor.u32()
    quant = QUANT_TYPES.get(number)
    if quant is None:
        cursor.fail(f"tensor {name} has the unknown type {number}", at)
    if width % quant.block:
        cursor.fail(
            f"tensor {name}: rows of {width} do not divide into the {quant.block} of a "
            f"{quant.name} block",
            at,
        )
    return quant


def _placed(
    cursor: Cursor, entries: list[_Entry], alignment: int, file: int
) -> Iterator[TensorInfo]:
    """Tensors at their places: as llama.cpp demands, in order and without gaps."""
    size = cursor.source.size
    data = _round_up(cursor.at, alignment)
    expected = 0
    for entry in entries:
        if entry.offset != expected:
            cursor.fail(
                f"tensor {entry.name} is at {entry.offset} of the data section, not at {expected} "
                "where the one before it ends",
                entry.at,
            )
        stop = data + entry.offset + entry.nbytes
        if stop > size:
            cursor.fail(
                f"tensor {entry.name} ends at byte {stop} but the file at {size}: it was "
                f"truncated; {cursor.again}",
                entry.at,
            )
        yield TensorInfo(
            entry.name, entry.type, entry.shape, file, data + entry.offset, entry.nbytes
        )
        expected = _round_up(entry.offset + entry.nbytes, alignment)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
