from __future__ import annotations

import ctypes

import pytest

from flexinfer.seam import Part
from flexinfer.storage.locked import LockedSet

PAGE = 2 << 20


def part(name: str, nbytes: int) -> Part:
    return Part(name, 0, 0, nbytes, 0, 1, locked=True)


def arrive(locked: LockedSet, one: Part) -> None:
    locked.place(one, 0, one.nbytes)
    locked.arrived(one)


def test_a_part_keeps_its_place() -> None:
    locked = LockedSet(4 * PAGE)
    a, b = part("a", PAGE), part("b", PAGE)
    locked.arrange([(a, PAGE)])
    assert repr(locked) == "<LockedSet 1 parts, 0 bytes>", "reserved, not in memory"
    arrive(locked, a)
    assert repr(locked) == f"<LockedSet 1 parts, {PAGE} bytes>"
    address = a.address
    locked.arrange([(a, PAGE), (b, PAGE)])
    assert a.address == address
    assert locked.place(a, 0, PAGE)[0] == address
    assert locked.nbytes == PAGE
    assert repr(locked) == f"<LockedSet 2 parts, {PAGE} bytes>"
    locked.forget(a)
    assert repr(locked) == "<LockedSet 1 parts, 0 bytes>"
    assert a.address == 0
    arrive(locked, b)
    locked.close()
    assert repr(locked) == "<LockedSet 0 parts, 0 bytes>"
    assert b.address == 0


def test_the_address_is_that_of_the_part_not_of_its_place() -> None:
    locked = LockedSet(PAGE)
    one = Part("a", 0, 5000, 100, 0, 1, locked=True)
    address, view = locked.place(one, 4096, 8192)
    view[904:1004] = b"x" * 100
    assert one.address == 0
    locked.arrived(one)
    assert one.address == address
    assert ctypes.string_at(address, 100) == b"x" * 100
    locked.close()


def test_parts_move_when_the_holes_are_too_small() -> None:
    """Every second part goes and a larger one comes: all fit, but no hole holds the new one."""
    locked = LockedSet(4 * PAGE)
    parts = [part(name, PAGE) for name in "abcd"]
    locked.arrange([(one, PAGE) for one in parts])
    for one in parts:
        arrive(locked, one)
    a, b, c, d = parts
    locked.forget(a)
    locked.forget(c)
    large = part("large", 2 * PAGE)
    locked.arrange([(large, 2 * PAGE), (b, PAGE), (d, PAGE)])
    assert (b.address, d.address) == (0, 0)  # to be read again
    places = {one.name: locked.place(one, 0, one.nbytes)[0] for one in (large, b, d)}
    assert len(set(places.values())) == 3
    locked.close()


def test_more_than_there_is_room_for_is_an_error() -> None:
    locked = LockedSet(PAGE)
    with pytest.raises(MemoryError):
        locked.arrange([(part("a", 2 * PAGE), 2 * PAGE)])
    locked.close()
