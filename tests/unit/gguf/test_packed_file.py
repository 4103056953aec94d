"""The marks of a packed copy and the names at its end, whatever else a file has there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.weights import few

from flexinfer.errors import ModelFileError
from flexinfer.gguf.packed_file import MARK, names_of_packed, read_packed_names

SIZE = 100


class Bytes:
    """A file in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.name, self.size = "copy", len(content)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        assert offset >= 0
        return self.content[offset : offset + nbytes]


def copy(end: bytes, mark: bytes = MARK) -> Bytes:
    return Bytes(mark + bytes(SIZE - len(mark)) + end)


@few
@given(st.sets(st.text(max_size=70), max_size=20))
def test_names_are_read_as_they_were_written(names: set[str]) -> None:
    assert read_packed_names(copy(names_of_packed(names)), SIZE) == frozenset(names)


@few
@given(st.binary(max_size=60))
def test_any_other_end_is_refused(end: bytes) -> None:
    whole = names_of_packed(["blk.0.attn_q.weight"])
    for other in (end, whole + end, whole[len(end) % len(whole) :], end + whole):
        if other != whole:
            with pytest.raises(ModelFileError, match="write it again with flexinfer pack"):
                read_packed_names(copy(other), SIZE)


@pytest.mark.parametrize("names", ["{}", "[1]", '"a"', "nul", "[", "\\"])
def test_names_that_are_none_are_refused(names: str) -> None:
    end = names.encode()
    whole = end + len(end).to_bytes(8, "little") + MARK
    with pytest.raises(ModelFileError, match="the names of its packed weights are damaged"):
        read_packed_names(copy(whole), SIZE)


def test_a_file_with_another_mark_is_no_packed_copy() -> None:
    assert read_packed_names(copy(names_of_packed(["a"]), b"GGUF"), SIZE) is None
    assert read_packed_names(Bytes(b""), SIZE) is None
