from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flexinfer.chat.text_stream import TextStream


def feed_all(stream: TextStream, pieces: list[bytes]) -> list[str]:
    return [stream.feed(piece) for piece in pieces] + [stream.feed(b"", final=True)]


def test_a_character_in_two_tokens_is_held_back() -> None:
    assert feed_all(TextStream(), [b"a\xc3", b"\xa9b"]) == ["a", "éb", ""]


def test_a_stop_text_ends_the_answer_even_across_tokens() -> None:
    stream = TextStream(["END"])
    assert feed_all(stream, [b"one E", b"N", b"D two"]) == ["one ", "", "", ""]
    assert stream.stopped
    assert stream.text == "one "


def test_what_only_looked_like_a_stop_text_is_shown() -> None:
    assert feed_all(TextStream(["END"]), [b"E", b"NGLAND"]) == ["", "ENGLAND", ""]


def test_a_broken_end_is_shown_as_such() -> None:
    assert feed_all(TextStream(), [b"a\xc3"])[-1] == "\ufffd"


@given(st.text(max_size=60), st.data())
def test_any_split_gives_the_text_up_to_the_first_stop(text: str, data: st.DataObject) -> None:
    stop = data.draw(st.text(min_size=1, max_size=4))
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    bounds = [0, *cuts, len(raw)]
    stream = TextStream([stop])
    feed_all(stream, [raw[a:b] for a, b in pairwise(bounds)])
    assert stream.text == text.split(stop)[0]
