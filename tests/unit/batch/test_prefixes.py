"""Which requests are sent one after the other."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flexinfer.batch.prefixes import brought_together
from flexinfer.batch.requests import BadLine, Request


def asked(prompts: list[Any], url: str = "/v1/completions") -> list[Request | BadLine]:
    return [Request(n, f"r{n}", url, {"prompt": text}) for n, text in enumerate(prompts, 1)]


def lines(found: list[Request | BadLine]) -> list[int]:
    return [one.line for one in found]


def test_those_that_begin_alike_stand_where_the_first_of_them_did() -> None:
    prompts = ["a" * 200 + "1", "b" * 200 + "1", "short", "b" * 200 + "2", "a" * 200 + "2"]
    assert lines([*brought_together(asked(prompts))]) == [1, 5, 2, 4, 3]


def test_of_those_the_ones_that_share_more_are_neighbours() -> None:
    common = "system " * 40
    prompts = [common + document * 2000 + str(n) for n, document in enumerate("xyzxyz")]
    assert lines([*brought_together(asked(prompts))]) == [1, 4, 2, 5, 3, 6]


def test_messages_begin_as_their_first_one_does() -> None:
    bodies = [[{"role": "system", "content": who * 200}] for who in "abab"]
    chats: list[Request | BadLine] = [
        Request(n, f"r{n}", "/v1/chat/completions", {"messages": body})
        for n, body in enumerate(bodies)
    ]
    assert lines([*brought_together(chats)]) == [0, 2, 1, 3]


def test_what_shares_nothing_keeps_its_order() -> None:
    prompts = [f"{n} and so on" for n in range(20)]
    mixed = [*asked(prompts), BadLine(21, None, "no"), BadLine(22, "x", "no")]
    assert lines([*brought_together(mixed)]) == [*range(1, 23)]


def test_no_more_is_held_than_was_allowed() -> None:
    taken = []

    def counted() -> Any:
        for one in asked(["a" * 1000] * 100):
            taken.append(one.line)
            yield one

    first = next(iter(brought_together(counted(), ahead=10_000)))
    assert first.line == 1
    assert len(taken) <= 11


@given(st.lists(st.sampled_from([c * n for c in "ab" for n in (1, 150, 1100)])), st.integers(1))
def test_each_is_there_once(prompts: list[str], ahead: int) -> None:
    found = [*brought_together(asked(prompts), ahead)]
    assert sorted(lines(found)) == lines(asked(prompts))
