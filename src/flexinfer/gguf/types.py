"""What a GGUF header is made of: tensors, quantisations with their block sizes, metadata types.

The numbers are those of ``enum ggml_type`` and ``enum gguf_type``; a test compares them with the
loaded library.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from flexinfer.errors import RequestError


@dataclass(frozen=True)
class QuantType:
    """`block` elements are stored in `nbytes` bytes."""

    id: int
    name: str
    block: int
    nbytes: int


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
        return prod(self.shape[1:])


@dataclass(frozen=True)
class ArrayValue:
    """An array of the metadata that was stepped over; `read_array` reads it.

    `offset` is that of its first entry in the file.
    """

    type: int
    length: int
    offset: int


def shard_names(stem: str, count: int) -> list[str]:
    """Names of the files of a model in `count` parts, in order; `stem` is a path up to the number.

    Source: ``llama_split_path`` of llama.cpp.
    """
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def paths_to_write(out: Path, count: int) -> tuple[Path, ...]:
    """Where the `count` files of a model written to `out` go: more than one have numbers.

    Raises:
        RequestError: `out` has no name.
    """
    if not out.name:
        raise RequestError(f"{str(out)!r} is no name of a file; give one, as model.gguf")
    if count == 1:
        return (out,)
    return tuple(map(out.with_name, shard_names(out.name.removesuffix(".gguf"), count)))


U32, BOOL, STRING, ARRAY = 4, 7, 8, 9

# Metadata type to struct code and bytes; strings and arrays have no fixed size.
SCALARS: dict[int, tuple[str, int]] = {
    0: ("B", 1),
    1: ("b", 1),
    2: ("H", 2),
    3: ("h", 2),
    4: ("I", 4),
    5: ("i", 4),
    6: ("f", 4),
    7: ("B", 1),
    10: ("Q", 8),
    11: ("q", 8),
    12: ("d", 8),
}

_TABLE = (
    (0, "f32", 1, 4),
    (1, "f16", 1, 2),
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (9, "q8_1", 32, 36),
    (10, "q2_K", 256, 84),
    (11, "q3_K", 256, 110),
    (12, "q4_K", 256, 144),
    (13, "q5_K", 256, 176),
    (14, "q6_K", 256, 210),
    (15, "q8_K", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (30, "bf16", 1, 2),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
    (40, "nvfp4", 64, 36),
    (41, "q1_0", 128, 18),
    (42, "q2_0", 64, 18),
)

QUANT_TYPES: dict[int, QuantType] = {row[0]: QuantType(*row) for row in _TABLE}
