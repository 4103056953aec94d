"""A packed copy of a model's file: the same places, some weights in the order of packed kernels.

It begins with a mark where GGUF has its own, so that nobody takes it for a model, and has behind
the model's bytes the names of the weights that are packed::

    mark | the file after its first 4 bytes | names as JSON | their bytes as u64 | mark
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable

from flexinfer.errors import ModelFileError
from flexinfer.gguf.source import Source

MARK = b"FlxP"
_LENGTH = struct.Struct("<Q")
_END = _LENGTH.size + len(MARK)
# Names of weights are far shorter than this together.
_LONGEST = 16 << 20


def names_of_packed(names: Iterable[str]) -> bytes:
    """What follows the model's bytes in a copy whose weights of these names are packed."""
    text = json.dumps(sorted(names)).encode()
    return text + _LENGTH.pack(len(text)) + MARK


def read_packed_names(source: Source, size: int) -> frozenset[str] | None:
    """Names of the weights that are packed in a copy of a file of `size` bytes.

    None where it is no packed copy.

    Raises:
        ModelFileError: it is one of another model, or was not written to its end.
        ReadError: the drive failed.
    """
    if source.read_at(0, len(MARK)) != MARK:
        return None
    length = source.size - size - _END
    end = source.read_at(source.size - _END, _END) if 0 <= length <= _LONGEST else b""
    if end != _LENGTH.pack(max(length, 0)) + MARK:
        raise ModelFileError(
            f"{source.name} is a packed copy of another model, or was cut short: it has "
            f"{source.size} bytes for a model of {size}; write it again with flexinfer pack"
        )
    try:
        names = json.loads(source.read_at(size, length))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelFileError(
            f"{source.name}: the names of its packed weights are damaged; write it again with "
            "flexinfer pack"
        )
    return frozenset(names)
