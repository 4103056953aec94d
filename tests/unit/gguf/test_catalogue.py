"""Headers that are valid, files and shards."""

from __future__ import annotations

import errno
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from support.gguf_bytes import (
    ARCHITECTURE,
    ARRAY,
    STRING,
    Gguf,
    MemorySource,
    key,
    keyed,
    tensor,
    text,
)

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError
from flexinfer.gguf.catalogue import read_catalogue, read_header
from flexinfer.gguf.header import read_array
from flexinfer.gguf.source import FileSource

# -- what is valid ----------------------------------------------------------------------------


def test_tensors_and_metadata() -> None:
    file = Gguf(
        keys=[
            ARCHITECTURE,
            key("general.name", STRING, "small"),
            key("llama.block_count", 4, 7),
            key("a.negative", 11, -3),
            key("a.float", 12, 0.5),
            key("a.bool", 7, 1),
        ]
    )
    catalogue = read_header(MemorySource(file.build()))
    assert (catalogue.architecture, catalogue.name) == ("llama", "small")
    assert catalogue.parameter("block_count") == 7
    assert catalogue.parameter("missing", 3) == 3
    assert [catalogue.metadata[k] for k in ("a.negative", "a.float", "a.bool")] == [-3, 0.5, True]
    a, b = catalogue.tensors
    data = -(-len(file.header()) // 32) * 32
    assert (a.name, a.type.name, a.shape, a.offset, a.nbytes) == ("a", "f32", (8, 8), data, 256)
    assert (b.name, b.type.name, b.shape, b.offset, b.nbytes) == (
        "b",
        "q4_0",
        (32,),
        data + 256,
        18,
    )
    assert (a.row_bytes, a.rows, b.row_bytes, b.rows) == (32, 8, 18, 1)
    assert catalogue.nbytes == 274
    assert catalogue.get("b") is b
    assert catalogue.get("c") is None


@pytest.mark.parametrize("version", [2, 3])
def test_versions(version: int) -> None:
    assert len(read_header(MemorySource(Gguf(version=version).build())).tensors) == 2


@pytest.mark.parametrize("alignment", [1, 8, 4096])
def test_alignments(alignment: int) -> None:
    second = -(-256 // alignment) * alignment
    file = Gguf(
        keys=[ARCHITECTURE, key("general.alignment", 4, alignment)],
        tensors=[tensor("a", [8, 8], 0, 0), tensor("b", [32], 2, second)],
        data=second + 18,
        alignment=alignment,
    )
    a, b = read_header(MemorySource(file.build())).tensors
    assert a.offset % alignment == 0
    assert b.offset == a.offset + second


def test_a_tensor_without_dimensions_is_one_value() -> None:
    file = Gguf(tensors=[tensor("scale", [], 0, 0)])
    (scale,) = read_header(MemorySource(file.build())).tensors
    assert (scale.shape, scale.nbytes) == ((1,), 4)


def test_arrays_are_stepped_over_and_read_on_demand() -> None:
    words = ["", "one", "zwei", "\u2581three"]
    file = Gguf(
        keys=[
            key("words", ARRAY, (STRING, words)),
            key("numbers", ARRAY, (5, [1, -2, 3])),
            key("flags", ARRAY, (7, [1, 0])),
            key("empty", ARRAY, (STRING, [])),
            ARCHITECTURE,
        ]
    )
    source = MemorySource(file.build())
    metadata = read_header(source).metadata
    assert metadata["words"].length == 4
    assert read_array(source, metadata["words"]) == words
    assert read_array(source, metadata["numbers"]) == [1, -2, 3]
    assert read_array(source, metadata["flags"]) == [True, False]
    assert read_array(source, metadata["empty"]) == []
    assert metadata["general.architecture"] == "llama"


def test_a_source_that_gives_little_at_a_time() -> None:
    file = Gguf(keys=[ARCHITECTURE, key("words", ARRAY, (STRING, ["word"] * 99))])
    source = MemorySource(file.build(), most=7)
    assert len(read_header(source).tensors) == 2


def test_only_the_header_is_fetched() -> None:
    content = Gguf(tensors=[tensor("a", [1 << 20, 256], 0, 0)], data=0).build()
    source = MemorySource(content, size=len(content) + (1 << 30))
    assert read_header(source).nbytes == 1 << 30
    assert source.asked <= 1 << 20


def test_a_large_vocabulary_costs_no_memory() -> None:
    words = b"".join(text(f"word{i}") for i in range(150_000))
    raw = text("tokens") + struct.pack("<IIQ", ARRAY, STRING, 150_000) + words
    source = MemorySource(Gguf(keys=[raw, ARCHITECTURE]).build())
    catalogue = read_header(source)
    assert catalogue.metadata["tokens"].length == 150_000
    tracemalloc.start()
    kept = read_header(source)
    assert tracemalloc.get_traced_memory()[0] < 100_000
    tracemalloc.stop()
    assert kept.tensors == catalogue.tensors


# -- files ------------------------------------------------------------------------------------


def write(path: Path, file: Gguf) -> Path:
    path.write_bytes(file.build())
    return path


def test_a_file(tmp_path: Path, no_leaks: None) -> None:
    path = write(tmp_path / "m.gguf", Gguf())
    catalogue = read_catalogue(path)
    assert catalogue.paths == (str(path),)
    assert catalogue.sizes == (path.stat().st_size,)
    assert [t.name for t in catalogue.tensors] == ["a", "b"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"none\.gguf: no such file") as caught:
        read_catalogue(tmp_path / "none.gguf")
    assert isinstance(caught.value, FileNotFoundError)


def test_an_unreadable_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Not by its mode: root may read everything.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ModelNotFoundError, match=r"m\.gguf: permission denied; ask for the right"):
        FileSource("m.gguf")


def test_what_is_no_file(tmp_path: Path, no_leaks: None) -> None:
    with pytest.raises(ModelFileError, match="is a directory"):
        read_catalogue(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="no regular file"):
        read_catalogue(tmp_path / "pipe")
    with pytest.raises(ModelNotFoundError, match="null"):
        read_catalogue("a\0b")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    with pytest.raises(ModelFileError, match="is empty"):
        read_catalogue(tmp_path / "m.gguf")


def test_a_drive_that_fails(tmp_path: Path) -> None:
    source = FileSource(write(tmp_path / "m.gguf", Gguf()))
    source.close()
    with pytest.raises(ReadError, match="100 bytes at 0 could not be read"):
        source.read_at(0, 100)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (Gguf(tensors=[], data=0), "holds no tensors"),
        (Gguf(keys=[key("k", 4, 1)]), "does not name its architecture"),
        (Gguf(keys=[key("general.architecture", 4, 1)]), "does not name its architecture"),
        (keyed(key("split.count", STRING, "2")), "split.count is '2'"),
        (keyed(key("split.count", 5, -2)), "split.count is -2"),
        (keyed(key("split.count", 2, 2000)), "split.count is 2000, more than 1024"),
        (keyed(key("split.count", 2, 2)), "one of 2 shards but is not named like"),
    ],
)
def test_what_is_a_gguf_but_no_model(tmp_path: Path, file: Gguf, message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read_catalogue(write(tmp_path / "m.gguf", file))
    assert message in str(caught.value)
    assert str(tmp_path / "m.gguf") in str(caught.value)


# -- shards -----------------------------------------------------------------------------------


def shard(
    folder: Path, number: int, count: int, *names: str, total: int = 3, claims: int | None = None
) -> Path:
    keys = [
        key("split.no", 2, number if claims is None else claims),
        key("split.count", 2, count),
        key("split.tensors.count", 5, total),
    ]
    tensors = [tensor(name, [8], 0, 32 * i) for i, name in enumerate(names)]
    file = Gguf(keys=[ARCHITECTURE, *keys] if number == 0 else keys, tensors=tensors, data=32 * 3)
    return write(folder / f"m-{number + 1:05}-of-{count:05}.gguf", file)


def test_shards_make_one_catalogue(tmp_path: Path, no_leaks: None) -> None:
    paths = [shard(tmp_path, 0, 2, "a", "b"), shard(tmp_path, 1, 2, "c")]
    catalogue = read_catalogue(paths[0])
    assert catalogue.paths == tuple(map(str, paths))
    assert catalogue.architecture == "llama"
    assert [(t.name, t.file) for t in catalogue.tensors] == [("a", 0), ("b", 0), ("c", 1)]


def test_a_first_shard_without_tensors(tmp_path: Path) -> None:
    first = shard(tmp_path, 0, 2)
    shard(tmp_path, 1, 2, "a", "b", "c")
    assert [t.file for t in read_catalogue(first).tensors] == [1, 1, 1]


def missing(folder: Path) -> Path:
    return shard(folder, 0, 2, "a", "b")


def second(folder: Path) -> Path:
    shard(folder, 0, 2, "a", "b")
    return shard(folder, 1, 2, "c")


def out_of_place(folder: Path) -> Path:
    shard(folder, 1, 2, "c", claims=2)
    return shard(folder, 0, 2, "a", "b")


def repeated(folder: Path) -> Path:
    shard(folder, 1, 2, "b")
    return shard(folder, 0, 2, "a", "b")


def incomplete(folder: Path) -> Path:
    shard(folder, 1, 2, "c")
    return shard(folder, 0, 2, "a", "b", total=4)


def broken(folder: Path) -> Path:
    shard(folder, 1, 2, "c").write_bytes(b"GGUF")
    return shard(folder, 0, 2, "a", "b")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (missing, ModelNotFoundError, "shard 2 of 2 is missing"),
        (second, ModelFileError, "is shard 2 of 2; give the path of the first"),
        (out_of_place, ModelFileError, "is not shard 2 of 2"),
        (repeated, ModelFileError, "tensor b is in another shard as well"),
        (incomplete, ModelFileError, "hold 3 tensors but 4 were announced"),
        (broken, ModelFileError, "m-00002-of-00002.gguf: the header passes the end"),
    ],
)
def test_shards_that_do_not_fit_together(
    tmp_path: Path,
    no_leaks: None,
    make: Callable[[Path], Path],
    kind: type[Exception],
    message: str,
) -> None:
    path = make(tmp_path)
    with pytest.raises(kind) as caught:
        read_catalogue(path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
