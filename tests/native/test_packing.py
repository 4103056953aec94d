"""Packing in place gives the bytes that ggml gives a whole weight, group of rows by group."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from flexinfer.errors import EngineError
from flexinfer.gguf.types import QUANT_TYPES, QuantType
from flexinfer.native.library import library
from flexinfer.native.mirror import LOG_LEVEL_DEBUG, InitParams, LogCallback, Tensor
from flexinfer.native.packing import Packer, Packing, packer

# Not even an element of these is a weight's.
_NO_WEIGHTS = {"i8", "i16", "i32", "i64", "f64", "q8_1", "q8_K"}
_Q4_0 = 2
COLUMNS, ROWS = 1024, 1040

Bytes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def packs() -> Packer:
    found = packer()
    if found is None:
        pytest.skip("this processor's ggml has no packed kernels")
    found.listen()
    return found


@pytest.fixture
def context() -> Iterator[int]:
    context = library().ggml_init(InitParams(1 << 16, None, True))
    yield context
    library().ggml_free(context)


def packing_of(packs: Packer, context: int, name: str, rows: int = ROWS) -> Packing:
    kind = next(kind for kind in QUANT_TYPES.values() if kind.name == name)
    weight = library().ggml_new_tensor_4d(context, kind.id, COLUMNS, rows, 1, 1)
    found = packs.packing(weight)
    if found is None:
        pytest.skip(f"{name} is not packed on this processor")
    return found


@pytest.fixture
def packed_kinds(packs: Packer, context: int) -> list[tuple[QuantType, Packing]]:
    """All types that are packed on this processor."""
    native = library()
    found = []
    for kind in QUANT_TYPES.values():
        if kind.name not in _NO_WEIGHTS:
            weight = native.ggml_new_tensor_4d(context, kind.id, COLUMNS, ROWS, 1, 1)
            if packing := packs.packing(weight):
                found.append((kind, packing))
    assert found
    return found


def raw_bytes(packing: Packing, rows: int = ROWS) -> Bytes:
    return np.random.default_rng(7).integers(0, 256, rows * packing.row_bytes, np.uint8)


def address_of(array: Bytes) -> int:
    return int(array.__array_interface__["data"][0])


def packed_by_ggml(packs: Packer, context: int, kind: QuantType, raw: Bytes) -> Bytes:
    """The whole weight handed to a buffer of the type that packs, as llama.cpp's loader does."""
    weight = library().ggml_new_tensor_4d(context, kind.id, COLUMNS, ROWS, 1, 1)
    result = np.zeros_like(raw)
    tensor = Tensor.from_address(weight)
    packs.mark(tensor)
    tensor.data = address_of(result)
    with packs.quiet():
        packs.set_tensor(tensor, address_of(raw), len(raw))
    return result


def test_in_place_equals_the_whole(
    packs: Packer, context: int, packed_kinds: list[tuple[QuantType, Packing]]
) -> None:
    for kind, packing in packed_kinds:
        raw = raw_bytes(packing)
        expected = packed_by_ggml(packs, context, kind, raw)
        assert not np.array_equal(expected, raw), kind.name
        guarded = np.concatenate([np.full(64, 7, np.uint8), raw, np.full(64, 9, np.uint8)])
        packing.pack(address_of(guarded) + 64, len(raw))
        assert np.array_equal(guarded[64:-64], expected), kind.name
        assert (guarded[:64] == 7).all(), kind.name
        assert (guarded[-64:] == 9).all(), kind.name


def test_slices_are_packed_by_themselves(
    packs: Packer, context: int, packed_kinds: list[tuple[QuantType, Packing]]
) -> None:
    for kind, packing in packed_kinds:
        raw = raw_bytes(packing)
        expected = packed_by_ggml(packs, context, kind, raw)
        for first, stop in ((0, 16), (16, 80), (80, ROWS)):
            start, nbytes = first * packing.row_bytes, (stop - first) * packing.row_bytes
            packing.pack(address_of(raw) + start, nbytes)
        assert np.array_equal(raw, expected), kind.name


def test_rows_too_many_for_one_piece(packs: Packer, context: int) -> None:
    """More than a core's cache holds, and rows that no piece divides."""
    rows = 8 * 1031
    packing = packing_of(packs, context, "q4_0", rows)
    raw = raw_bytes(packing, rows)
    singly = raw.copy()
    group = 8 * packing.row_bytes
    for start in range(0, len(raw), group):
        packing.pack(address_of(singly) + start, group)
    packing.pack(address_of(raw), len(raw))
    assert np.array_equal(raw, singly)


def test_a_matrix_of_many_is_packed_like_one_alone(packs: Packer, context: int) -> None:
    alone = packing_of(packs, context, "q4_0")
    experts = packs.packing(library().ggml_new_tensor_4d(context, _Q4_0, COLUMNS, ROWS, 6, 1))
    assert experts is not None
    assert (experts.buffer, experts.extra) == (alone.buffer, alone.extra)
    raw = raw_bytes(alone)
    other = raw.copy()
    alone.pack(address_of(raw), len(raw))
    experts.pack(address_of(other), len(other))
    assert np.array_equal(raw, other)


def test_the_library_is_asked_for_shape_and_type(packs: Packer, context: int) -> None:
    native = library()
    packing_of(packs, context, "q4_0")
    for odd in (
        native.ggml_new_tensor_4d(context, _Q4_0, COLUMNS, ROWS + 1, 1, 1),
        native.ggml_new_tensor_4d(context, 0, COLUMNS, ROWS, 1, 1),
    ):
        before = ctypes.string_at(odd, ctypes.sizeof(Tensor))
        assert packs.packing(odd) is None
        assert ctypes.string_at(odd, ctypes.sizeof(Tensor)) == before


def test_what_is_no_group_of_rows_is_refused(packs: Packer, context: int) -> None:
    packing = packing_of(packs, context, "q4_0")
    raw = raw_bytes(packing)
    before = raw.copy()
    for nbytes in (0, packing.row_bytes, 16 * packing.row_bytes + 1, 17 * packing.row_bytes):
        with pytest.raises(EngineError, match="no rows that can be packed"):
            packing.pack(address_of(raw), nbytes)
    assert np.array_equal(raw, before)


@pytest.fixture
def own(packs: Packer, context: int) -> Packer:
    """With a place of its own in the log: the one of the process must not lead to a test."""
    return Packer(library(), packing_of(packs, context, "q4_0").buffer)


@pytest.fixture
def said(own: Packer) -> Iterator[list[bytes]]:
    """What the library says, instead of where it went before."""
    native = library()
    callback, data = ctypes.c_void_p(), ctypes.c_void_p()
    native.ggml_log_get(ctypes.byref(callback), ctypes.byref(data))
    lines: list[bytes] = []
    recorder = LogCallback(lambda _level, text, _data: lines.append(text))
    native.ggml_log_set(recorder, None)
    yield lines
    native.ggml_log_set(callback, data)


def test_nothing_is_said_of_each_piece(own: Packer, context: int, said: list[bytes]) -> None:
    own.listen()
    own.listen()
    packing = packing_of(own, context, "q4_0")
    raw = raw_bytes(packing)
    packing.pack(address_of(raw), len(raw))
    assert said == []
    # Whoever else has a weight packed, has it said, once.
    tensor = Tensor.from_address(library().ggml_new_tensor_4d(context, _Q4_0, COLUMNS, 16, 1, 1))
    own.mark(tensor)
    tensor.data = address_of(raw)
    own.set_tensor(tensor, address_of(raw.copy()), 16 * packing.row_bytes)
    assert len(said) == 1
    assert b"repack tensor" in said[0]


def test_a_callback_that_was_put_back_hands_on_as_before(packs: Packer) -> None:
    """Not to the one that stood there meanwhile, which may be gone."""
    native = library()
    outer: list[bytes] = []
    inner: list[bytes] = []
    first, ours = ctypes.c_void_p(), ctypes.c_void_p()
    data = ctypes.c_void_p()
    native.ggml_log_get(ctypes.byref(first), ctypes.byref(data))
    kept = [LogCallback(lambda _l, text, _d, to=to: to.append(text)) for to in (outer, inner)]
    try:
        native.ggml_log_set(kept[0], None)
        packs.listen()
        native.ggml_log_get(ctypes.byref(ours), ctypes.byref(data))
        native.ggml_log_set(kept[1], None)
        packs.listen()
        native.ggml_log_set(ours, None)
        LogCallback(ours.value or 0)(LOG_LEVEL_DEBUG, b"hello", None)
    finally:
        native.ggml_log_set(first, None)
    assert (outer, inner) == ([b"hello"], [])
