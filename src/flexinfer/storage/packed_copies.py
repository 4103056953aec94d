"""Packed copies of a model in place of its own files: compared with what is packed here, then read.

Other kernels, another processor or another model would compute something else from their bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from flexinfer.errors import ModelFileError
from flexinfer.memory.pages import address_of
from flexinfer.reading.file_reader import open_reader
from flexinfer.reading.reader import Reader
from flexinfer.storage.layouts import Held

_SAMPLES = 32
# A multiple of the rows that any kernels interleave.
_ROWS = 16


class PackedCopy(Protocol):
    """One copy of a model."""

    @property
    def paths(self) -> Sequence[str]:
        """Of its files, in the order of the model's."""

    @property
    def packed(self) -> frozenset[str]:
        """Names of the weights that it has packed."""


def as_packed(held: list[Held], copies: Sequence[PackedCopy], plain: Sequence[str]) -> list[Held]:
    """The weights as they are read where each drive has the files of a copy, then the `plain` ones.

    Args:
        copies: all with the same weights packed; without any nothing changes.
        plain: paths of the model's files.

    Raises:
        ModelFileError: a copy is packed in another way than here, or it is of another model.
        ReadError: a drive failed.
    """
    if not copies:
        return held
    shift, names = len(plain), copies[0].packed
    found = [
        replace(one, plain_file=one.info.file + shift) if one.info.name in names else one
        for one in held
    ]
    for copy in copies:
        with closing(open_reader((*copy.paths, *plain), cached=True)) as reader:
            for one in _drawn(found):
                if not _is_packed_here(one, reader):
                    raise ModelFileError(
                        f"{copy.paths[one.info.file]} is packed in another way than llama.cpp does "
                        f"it on this processor, or is of another model: {one.info.name} differs; "
                        "write it again with flexinfer pack"
                    )
    return found


def _drawn(held: Iterable[Held]) -> list[Held]:
    """One weight of each kind that is packed, and some more, others each time."""
    packed = [one for one in held if one.packing is not None and one.plain_file is not None]
    random.shuffle(packed)
    kinds = {(one.info.type.id, one.info.shape): one for one in packed}
    return list({id(one): one for one in (*kinds.values(), *packed[:_SAMPLES])}.values())


def _is_packed_here(one: Held, reader: Reader) -> bool:
    """Whether some rows of a weight lie in the copy as they are packed here."""
    assert one.packing is not None
    assert one.plain_file is not None
    size, matrix_rows = one.info.row_bytes, one.info.shape[1]
    rows = min(_ROWS, matrix_rows)
    matrix = random.randrange(one.info.rows // matrix_rows)
    first = matrix * matrix_rows + random.randrange(matrix_rows // rows) * rows
    offset, nbytes = one.info.offset + first * size, rows * size
    copied, packed = bytearray(nbytes), bytearray(nbytes)
    reader.read_into(one.info.file, offset, memoryview(copied))
    reader.read_into(one.plain_file, offset, memoryview(packed))
    one.packing.pack(address_of(packed), nbytes)
    return copied == packed
