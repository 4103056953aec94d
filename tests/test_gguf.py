from __future__ import annotations

import ctypes
import errno
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_bytes import ARCHITECTURE, ARRAY, STRING, Gguf, key, tensor, text
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError
from flexinfer.gguf import FileSource, read_array, read_catalogue, read_header
from flexinfer.gguf_source import HEADER_LIMIT
from flexinfer.gguf_types import QUANT_TYPES


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


# -- what is hostile --------------------------------------------------------------------------

HUGE = (1 << 64) - 1


def keyed(raw: bytes) -> Gguf:
    return Gguf(keys=[ARCHITECTURE, raw])


def shaped(*tensors: bytes) -> Gguf:
    return Gguf(tensors=list(tensors))


HOSTILE: dict[str, tuple[Gguf, str]] = {
    "magic": (Gguf(magic=b"GGML"), "this is no GGUF file"),
    "version 1": (Gguf(version=1), "GGUF version 1 is not supported"),
    "version 4": (Gguf(version=4), "GGUF version 4 is not supported"),
    "big endian": (Gguf(version=3 << 24), "big endian"),
    "tensor count": (Gguf(n_tensors=HUGE), f"{HUGE} tensors cannot fit"),
    "key count": (Gguf(n_keys=HUGE), f"{HUGE} metadata keys cannot fit"),
    "one tensor too many": (Gguf(n_tensors=3), "a tensor name is empty"),
    "key length": (keyed(struct.pack("<Q", HUGE)), f"{HUGE} bytes in a metadata key"),
    "key empty": (keyed(key("", 4, 1)), "a metadata key is empty"),
    "key not text": (keyed(key(b"\xff\xfe", 4, 1)), "a metadata key is not UTF-8"),
    "key twice": (keyed(ARCHITECTURE), "general.architecture is there twice"),
    "value type": (keyed(text("k") + struct.pack("<II", 13, 0)), "k has the unknown type 13"),
    "value length": (
        keyed(text("k") + struct.pack("<IQ", STRING, HUGE)),
        f"{HUGE} bytes in k cannot fit",
    ),
    "array type": (
        keyed(text("k") + struct.pack("<IIQ", ARRAY, 77, 1)),
        "k has the unknown type 77",
    ),
    "array nested": (keyed(text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1)), "nested arrays"),
    "array length": (
        keyed(text("k") + struct.pack("<IIQ", ARRAY, 4, HUGE)),
        f"{HUGE} values in k cannot fit",
    ),
    "array of strings": (
        keyed(text("k") + struct.pack("<IIQ", ARRAY, STRING, HUGE)),
        f"{HUGE} strings in k cannot fit",
    ),
    "string in an array": (
        keyed(text("k") + struct.pack("<IIQQ", ARRAY, STRING, 1, HUGE)),
        f"a string in k has {HUGE} bytes",
    ),
    "string past the end": (
        keyed(text("k") + struct.pack("<IIQQ", ARRAY, STRING, 1, 100_000)),
        "passes the end of the file",
    ),
    "alignment 0": (keyed(key("general.alignment", 4, 0)), "general.alignment is 0"),
    "alignment 24": (keyed(key("general.alignment", 4, 24)), "general.alignment is 24"),
    "alignment text": (keyed(key("general.alignment", STRING, "8")), "general.alignment is '8'"),
    "alignment u64": (keyed(key("general.alignment", 10, 32)), "general.alignment is 32"),
    "name empty": (shaped(tensor("", [8], 0, 0)), "a tensor name is empty"),
    "name long": (shaped(tensor("n" * 64, [8], 0, 0)), "longer than 63 bytes"),
    "name not text": (shaped(tensor(b"\xc3", [8], 0, 0)), "a tensor name is not UTF-8"),
    "name twice": (
        shaped(tensor("a", [8], 0, 0), tensor("a", [8], 0, 32)),
        "tensor a is there twice",
    ),
    "dimensions": (shaped(tensor("a", [1] * 5, 0, 0)), "tensor a has 5 dimensions"),
    "dimension 0": (shaped(tensor("a", [8, 0], 0, 0)), "impossible shape [8, 0]"),
    "dimension negative": (shaped(tensor("a", [HUGE], 0, 0)), "impossible shape"),
    "shape overflows": (shaped(tensor("a", [1 << 32, 1 << 32], 0, 0)), "impossible shape"),
    "type": (shaped(tensor("a", [8], 4, 0)), "tensor a has the unknown type 4"),
    "type huge": (shaped(tensor("a", [8], 1 << 31, 0)), "tensor a has the unknown type"),
    "blocks": (shaped(tensor("a", [48], 2, 0)), "rows of 48 do not divide into the 32"),
    "offset misaligned": (shaped(tensor("a", [8], 0, 4)), "tensor a is at 4"),
    "offset huge": (shaped(tensor("a", [8], 0, HUGE)), f"tensor a is at {HUGE}"),
    "offset overlapping": (
        shaped(tensor("a", [8], 0, 0), tensor("b", [8], 0, 0)),
        "tensor b is at 0 of the data section, not at 32",
    ),
    "offset with a gap": (
        shaped(tensor("a", [8], 0, 0), tensor("b", [8], 0, 64)),
        "tensor b is at 64 of the data section, not at 32",
    ),
    "data truncated": (Gguf(data=256 + 17), "tensor b ends at byte .* it was truncated"),
    "data missing": (Gguf(data=0), "tensor a ends at byte .* it was truncated"),
    "data beyond any drive": (
        shaped(tensor("a", [1 << 31, 1 << 30], 0, 0)),
        "tensor a ends at byte",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_with_the_place(case: str) -> None:
    file, message = HOSTILE[case]
    pattern = message if ".*" in message else None
    with pytest.raises(ModelFileError, match=pattern) as caught:
        read_header(MemorySource(file.build()))
    assert str(caught.value).startswith("memory.gguf: ")
    assert pattern or message in str(caught.value)
    assert "(at byte " in str(caught.value)


def test_the_place_is_that_of_the_fault() -> None:
    with pytest.raises(ModelFileError) as caught:
        read_header(MemorySource(keyed(ARCHITECTURE).build()))
    assert str(caught.value).endswith(f"(at byte {24 + len(ARCHITECTURE)})")


def test_every_truncation_of_a_header_is_refused() -> None:
    file = Gguf(keys=[ARCHITECTURE, key("words", ARRAY, (STRING, ["one", "two"]))])
    content = file.build()
    for length in range(len(content) - 14):
        with pytest.raises(ModelFileError, match=r"memory\.gguf"):
            read_header(MemorySource(content[:length]))
    assert read_header(MemorySource(content[:-14])).get("b") is not None


def test_a_source_that_ends_before_its_size() -> None:
    content = Gguf().build()
    with pytest.raises(ModelFileError, match="the file ended early"):
        read_header(MemorySource(content[:40], size=len(content)))


@pytest.mark.parametrize(
    "raw",
    [
        text("k") + struct.pack("<IIQ", ARRAY, 0, 1 << 33),
        text("k") + struct.pack("<IIQ", ARRAY, STRING, 1 << 30),
        text("k") + struct.pack("<IQ", STRING, 1 << 33),
        text("k") + struct.pack("<IIQQ", ARRAY, STRING, 2, HEADER_LIMIT) + bytes(64),
    ],
)
def test_nothing_is_allocated_for_a_length_that_a_large_file_could_hold(raw: bytes) -> None:
    source = MemorySource(keyed(raw).build(), size=1 << 40)
    tracemalloc.start()
    with pytest.raises(ModelFileError):
        read_header(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_counts_that_a_large_file_could_hold_are_bounded() -> None:
    with pytest.raises(ModelFileError, match="more than the 131072"):
        read_header(MemorySource(Gguf(n_tensors=1 << 20).build(), size=1 << 40))


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


def catalogue_or_refusal(content: bytes) -> None:
    source = MemorySource(content)
    try:
        catalogue = read_header(source)
    except ModelFileError:
        return
    for info in catalogue.tensors:
        assert 0 < info.nbytes <= source.size
        assert 0 <= info.offset <= source.size - info.nbytes
        assert info.row_bytes * info.rows == info.nbytes


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_end_in_a_catalogue_or_a_refusal(changes: list[tuple[int, int]]) -> None:
    content = bytearray(CONTENT)
    for at, byte in changes:
        content[at] = byte
    catalogue_or_refusal(bytes(content))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, HEADER - 8),
    st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63, HUGE]),
    st.sampled_from(["<I", "<Q"]),
)
def test_extreme_numbers_end_in_a_catalogue_or_a_refusal(at: int, number: int, form: str) -> None:
    content = bytearray(CONTENT)
    struct.pack_into(form, content, at, number & (0xFFFFFFFF if form == "<I" else HUGE))
    tracemalloc.start()
    catalogue_or_refusal(bytes(content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic(content: bytes) -> None:
    catalogue_or_refusal(b"GGUF\x03\0\0\0" + content)


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
    with pytest.raises(ModelNotFoundError, match=r"m\.gguf: permission denied; give the path"):
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
    with pytest.raises(ModelFileError, match="passes the end of the file, 0"):
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


# -- against the library ----------------------------------------------------------------------


class InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


@pytest.fixture(scope="module")
def ggml() -> Any:
    """The library's own reader of GGUF headers."""
    import llama_cpp

    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so.0"))
    results: dict[str, Any] = {
        "ggml_type_name": ctypes.c_char_p,
        "ggml_type_size": ctypes.c_size_t,
        "ggml_blck_size": ctypes.c_int64,
        "gguf_init_from_file": ctypes.c_void_p,
        "gguf_get_n_tensors": ctypes.c_int64,
        "gguf_get_n_kv": ctypes.c_int64,
        "gguf_get_data_offset": ctypes.c_size_t,
        "gguf_get_tensor_name": ctypes.c_char_p,
        "gguf_get_tensor_type": ctypes.c_int,
        "gguf_get_tensor_offset": ctypes.c_size_t,
        "gguf_get_tensor_size": ctypes.c_size_t,
        "gguf_free": None,
    }
    for name, result in results.items():
        getattr(library, name).restype = result
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    return library


def seen_by(ggml: Any, path: Path) -> tuple[int, list[tuple[str, int, int, int]]]:
    """Number of keys; name, type, offset and size of each tensor."""
    address = ggml.gguf_init_from_file(os.fsencode(path), InitParams(True, None))
    assert address, "ggml refuses the file"
    context = ctypes.c_void_p(address)
    data = ggml.gguf_get_data_offset(context)
    tensors = [
        (
            ggml.gguf_get_tensor_name(context, ctypes.c_int64(i)).decode(),
            ggml.gguf_get_tensor_type(context, ctypes.c_int64(i)),
            data + ggml.gguf_get_tensor_offset(context, ctypes.c_int64(i)),
            ggml.gguf_get_tensor_size(context, ctypes.c_int64(i)),
        )
        for i in range(ggml.gguf_get_n_tensors(context))
    ]
    keys = ggml.gguf_get_n_kv(context)
    ggml.gguf_free(context)
    return keys, tensors


def seen_by_us(path: Path) -> tuple[int, list[tuple[str, int, int, int]]]:
    with FileSource(path) as source:
        catalogue = read_header(source)
    tensors = [(t.name, t.type.id, t.offset, t.nbytes) for t in catalogue.tensors]
    return len(catalogue.metadata), tensors


@pytest.mark.native
def test_types_and_block_sizes_are_the_librarys(ggml: Any) -> None:
    count = 43  # GGML_TYPE_COUNT of the pinned version; the library does not check its argument
    theirs = {
        n: (ggml.ggml_type_name(n).decode(), ggml.ggml_blck_size(n), ggml.ggml_type_size(n))
        for n in range(count)
        if ggml.ggml_type_size(n)
    }
    assert {n: (t.name, t.block, t.nbytes) for n, t in QUANT_TYPES.items()} == theirs


@pytest.mark.native
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(4, HEADER - 1), st.integers(0, 255))
def test_what_we_accept_the_library_reads_alike(
    ggml: Any, tmp_path: Path, at: int, byte: int
) -> None:
    content = bytearray(CONTENT)
    content[at] = byte
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    try:
        ours = seen_by_us(path)
    except ModelFileError:
        return
    # The library reads names up to their first zero byte.
    assume(all("\0" not in name for name, *_ in ours[1]))
    assert seen_by(ggml, path) == ours


@pytest.mark.native
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-moe"])
def test_a_model_is_seen_as_by_the_library(
    ggml: Any, tiny_model: Callable[[str, str], Path], preset: str
) -> None:
    path = tiny_model(preset, "q4_K")
    assert seen_by_us(path) == seen_by(ggml, path)
