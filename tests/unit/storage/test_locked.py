from __future__ import annotations

import ctypes

import pytest

from flexinfer.reading.reader import Transfer
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


def test_parts_that_stay_move_together_with_their_bytes() -> None:
    """Of many parts every fourth stays: what is in memory is theirs, not the holes'."""
    size = PAGE // 2
    locked = LockedSet(16 * PAGE)
    parts = [part(str(number), size) for number in range(32)]
    locked.arrange([(one, size) for one in parts])
    for number, one in enumerate(parts):
        _, view = locked.place(one, 0, size)
        view[:] = bytes([number]) * size
        locked.arrived(one)
    for number, one in enumerate(parts):
        if number % 4:
            locked.forget(one)
    kept = parts[::4]
    assert locked.resident == len(kept) * PAGE
    locked.arrange([(one, size) for one in kept])
    assert locked.nbytes == len(kept) * size
    assert locked.resident == locked.nbytes
    for one in kept:
        assert ctypes.string_at(one.address, size) == bytes([int(one.name)]) * size
    locked.close()


def test_parts_not_read_yet_are_placed_together_too() -> None:
    size = PAGE // 2
    locked = LockedSet(8 * PAGE)
    parts = [part(str(number), size) for number in range(16)]
    locked.arrange([(one, size) for one in parts])
    for one in parts:
        if int(one.name) % 4:
            locked.forget(one)
    locked.arrange([(one, size) for one in parts[::4]])
    for one in parts[::4]:
        arrive(locked, one)
    assert locked.resident == locked.nbytes == 4 * size
    locked.close()


def test_a_part_that_begins_inside_its_place_moves_with_its_lead() -> None:
    locked = LockedSet(8 * PAGE)
    large, small, middle = part("large", 2 * PAGE), part("small", 4096), part("middle", 2 * PAGE)
    one = Part("one", 0, 5000, 100, 0, 1, locked=True)
    locked.arrange([(large, 2 * PAGE), (small, 4096), (middle, 2 * PAGE), (one, 4096)])
    _, view = locked.place(one, 4096, 8192)
    view[904:1004] = b"x" * 100
    locked.arrived(one)
    far = one.address
    locked.forget(large)
    locked.forget(middle)
    locked.arrange([(small, 4096), (one, 4096)])
    assert one.address == far - 4 * PAGE
    assert ctypes.string_at(one.address, 100) == b"x" * 100
    assert locked.resident == PAGE
    locked.close()


def test_what_a_hanging_read_may_write_to_stays_where_it_is() -> None:
    locked = LockedSet(8 * PAGE)
    parts = [part(name, PAGE // 2) for name in "abcdefgh"]
    locked.arrange([(one, one.nbytes) for one in parts])
    for one in parts[1:]:
        arrive(locked, one)
    _, late = locked.place(parts[0], 0, PAGE // 2)
    transfer = Transfer()
    locked.leave_behind(parts[0], transfer)
    for one in parts[1:7]:
        locked.forget(one)
    locked.arrange([(parts[7], PAGE // 2)])
    ctypes.memset(parts[7].address, 7, PAGE // 2)
    late[:] = b"l" * len(late)
    assert ctypes.string_at(parts[7].address, PAGE // 2) == bytes([7]) * (PAGE // 2)
    transfer.finish(None)
    locked.close()
