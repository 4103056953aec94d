"""GGUF files built byte by byte, so that each byte can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
Key = tuple[str, int, Any]
Tensor = tuple[str, Sequence[int], int, int]


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return text(content)
    if kind == ARRAY:
        of, entries = content
        packed = b"".join(value(of, entry) for entry in entries)
        return struct.pack("<IQ", of, len(entries)) + packed
    return struct.pack(f"<{CODES[kind]}", content)


def key(name: str | bytes, kind: int, content: Any) -> bytes:
    return text(name) + struct.pack("<I", kind) + value(kind, content)


def tensor(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = key("general.architecture", STRING, "llama")


@dataclass
class Gguf:
    """A file in parts; the defaults make a valid one with two tensors of 256 and 18 bytes."""

    magic: bytes = b"GGUF"
    version: int = 3
    keys: list[bytes] = field(default_factory=lambda: [ARCHITECTURE])
    tensors: list[bytes] = field(
        default_factory=lambda: [tensor("a", [8, 8], 0, 0), tensor("b", [32], 2, 256)]
    )
    data: int = 256 + 32
    n_tensors: int | None = None
    n_keys: int | None = None
    alignment: int = 32

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        start = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys)
        return start + b"".join(self.keys) + b"".join(self.tensors)

    def build(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + bytes(self.data)


def keyed(raw: bytes) -> Gguf:
    return Gguf(keys=[ARCHITECTURE, raw])


class MemorySource:
    """A header in memory that counts what was asked of it, and may claim another size."""

    def __init__(self, content: bytes, size: int | None = None, most: int = 1 << 30) -> None:
        self.name = "memory.gguf"
        self.size = len(content) if size is None else size
        self.asked = 0
        self._content = content
        self._most = most

    def read_at(self, offset: int, nbytes: int) -> bytes:
        self.asked += nbytes
        return self._content[offset : offset + min(nbytes, self._most)]


# A small model with keys of several kinds, and where its header ends.
CONTENT = Gguf(
    keys=[
        ARCHITECTURE,
        key("general.alignment", 4, 32),
        key("words", ARRAY, (STRING, ["one", "two", "three"])),
        key("scores", ARRAY, (6, [1.0, 2.0])),
        key("split.count", 2, 1),
    ]
).build()
HEADER = len(CONTENT) - (256 + 32)
