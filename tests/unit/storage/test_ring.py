from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from flexinfer.storage.ring import Ring


def test_places_follow_each_other_and_wrap() -> None:
    ring = Ring(100)
    assert [ring.push(40), ring.push(40), ring.push(40)] == [0, 40, None]
    ring.pop()
    assert ring.push(40) == 0, "the end is too short, the beginning is free"
    assert ring.push(1) is None, "nothing is left between newest and oldest"
    assert repr(ring) == "<Ring 80 of 100 bytes in 2 places>"
    assert len(ring) == 2


def test_an_empty_ring_starts_over_and_refuses_more_than_it_has() -> None:
    ring = Ring(100)
    assert ring.push(60) == 0
    ring.pop()
    assert ring.push(100) == 0
    ring.unpush()
    assert ring.push(101) is None
    assert repr(ring) == "<Ring 0 of 100 bytes in 0 places>"


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "unpush"]), st.integers(1, 60))))
def test_places_never_overlap_and_leave_in_order(steps: list[tuple[str, int]]) -> None:
    ring = Ring(100)
    held: deque[tuple[int, int]] = deque()
    for action, nbytes in steps:
        if action == "push":
            offset = ring.push(nbytes)
            if offset is None:
                continue
            assert 0 <= offset <= 100 - nbytes
            for start, length in held:
                assert offset + nbytes <= start or start + length <= offset
            held.append((offset, nbytes))
        elif held:
            (ring.pop if action == "pop" else ring.unpush)()
            _ = held.popleft() if action == "pop" else held.pop()
        assert ring.used == sum(length for _, length in held)
