"""Headers that nobody should have written: each is refused, by name and place, at no cost."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gguf_bytes import (
    ARCHITECTURE,
    ARRAY,
    CONTENT,
    HEADER,
    STRING,
    Gguf,
    MemorySource,
    key,
    keyed,
    tensor,
    text,
)

from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import read_header
from flexinfer.gguf.source import HEADER_LIMIT

HUGE = (1 << 64) - 1


def shaped(*tensors: bytes) -> Gguf:
    return Gguf(tensors=list(tensors))


HOSTILE: dict[str, tuple[Gguf, str]] = {
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
