from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexinfer.machine.machine import process_memory
from flexinfer.memory import pages
from flexinfer.memory.pages import PAGE, Arena, Slot, address_of
from flexinfer.sizes import ALIGNMENT


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(4 * PAGE)
    yield arena
    arena.close()


def test_starts_at_a_huge_page_and_is_writable(arena: Arena) -> None:
    view = arena.view(0, arena.nbytes)
    assert arena.address % PAGE == 0
    assert address_of(view) == arena.address
    view[0] = 1
    view[-1] = 2
    assert arena.view(arena.nbytes - 1, 1)[0] == 2
    view.release()


def test_rounds_up_to_whole_pages() -> None:
    arena = Arena(PAGE + 1)
    assert arena.nbytes == 2 * PAGE
    arena.close()


@pytest.mark.parametrize("nbytes", [0, -1])
def test_refuses_nothing(nbytes: int) -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        Arena(nbytes)


def test_too_much_address_space_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="the system has no more"):
        Arena(1 << 60)


def test_allocates_first_fit_and_merges(arena: Arena) -> None:
    one, two, three = (arena.allocate(n) for n in (PAGE, 5000, PAGE))
    assert (one.offset, two.offset, three.offset) == (0, PAGE, PAGE + 8192)
    assert two.nbytes == 8192
    assert arena.used == 2 * PAGE + 8192
    arena.free(one)
    arena.free(three)
    assert arena.used == 8192
    arena.free(two)
    assert arena.free_bytes == arena.nbytes
    assert arena.allocate(4 * PAGE) == Slot(0, 4 * PAGE)


def test_full_arena_says_what_is_left(arena: Arena) -> None:
    arena.allocate(3 * PAGE)
    with pytest.raises(MemoryError, match=f"{PAGE} of {4 * PAGE} bytes are free"):
        arena.allocate(PAGE + 1)
    assert arena.used == 3 * PAGE


@pytest.mark.parametrize(
    "slot", [Slot(0, PAGE), Slot(-4096, 4096), Slot(4 * PAGE, 4096), Slot(8192, 8192)]
)
def test_frees_only_what_is_allocated(arena: Arena, slot: Slot) -> None:
    arena.allocate(12288)
    arena.free(Slot(4096, 4096))
    with pytest.raises(ValueError, match="not allocated"):
        arena.free(slot)
    assert arena.used == 8192


def test_view_outside_is_refused(arena: Arena) -> None:
    for offset, nbytes in [(-1, 1), (0, 4 * PAGE + 1), (4 * PAGE, 1)]:
        with pytest.raises(ValueError, match="no range"):
            arena.view(offset, nbytes)


def test_trim_gives_back_whole_free_pages_only(arena: Arena) -> None:
    first, second = arena.allocate(PAGE + 4096), arena.allocate(PAGE)
    for slot in (first, second):
        arena.view(slot.offset, slot.nbytes)[:] = b"\7" * slot.nbytes
    assert arena.resident == 3 * PAGE
    assert arena.trim() == 0
    arena.free(first)
    assert arena.trim(first) == PAGE  # the second page also holds the second slot
    assert arena.resident == 2 * PAGE
    assert bytes(arena.view(second.offset, second.nbytes)) == b"\7" * second.nbytes
    assert arena.view(0, 1)[0] == 0
    arena.free(second)
    assert arena.trim() == 3 * PAGE
    assert arena.resident == 0


def test_trim_really_frees(arena: Arena) -> None:
    slot = arena.allocate(4 * PAGE)
    arena.view(0, slot.nbytes)[:] = b"\1" * slot.nbytes
    before = rss_anon()
    arena.free(slot)
    assert arena.trim(slot) == 4 * PAGE
    assert before - rss_anon() >= 3 * PAGE


def locked_by_the_system() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmLck:")[1].split()[0]) << 10


def test_pinned_pages_are_locked_as_they_become_resident() -> None:
    before = locked_by_the_system()
    arena = Arena(4 * PAGE, pinned=True)
    slot = arena.allocate(2 * PAGE)
    arena.view(0, PAGE)[:] = bytes(PAGE)
    if not arena.pinned:
        pytest.skip("the limit on locked memory is below 2 MiB")
    assert locked_by_the_system() - before == PAGE
    arena.free(slot)
    assert arena.trim() == PAGE
    assert locked_by_the_system() == before
    arena.view(0, 2 * PAGE)[:] = bytes(2 * PAGE)
    assert locked_by_the_system() - before == 2 * PAGE
    arena.close()
    assert locked_by_the_system() == before


def test_a_refused_lock_leaves_nothing_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = locked_by_the_system()
    arena = Arena(4 * PAGE, pinned=True)
    arena.view(0, PAGE)
    monkeypatch.setattr(pages, "lock_pages", lambda address, nbytes: False)
    arena.view(PAGE, PAGE)
    assert not arena.pinned
    assert locked_by_the_system() == before
    assert arena.trim() == 2 * PAGE
    arena.close()


def test_close_returns_memory_while_views_live() -> None:
    arena = Arena(4 * PAGE)
    view = arena.view(0, arena.nbytes)
    view[:] = b"\1" * arena.nbytes
    before = rss_anon()
    arena.close()
    arena.close()
    assert before - rss_anon() >= 3 * PAGE
    assert view[0] == 0
    assert "closed" in repr(arena)
    with pytest.raises(ValueError, match="closed"):
        arena.view(0, 1)
    with pytest.raises(MemoryError):
        arena.allocate(1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, PAGE)), max_size=60))
def test_slots_never_overlap_and_nothing_is_lost(steps: list[tuple[bool, int]]) -> None:
    arena = Arena(4 * PAGE)
    slots: list[Slot] = []
    for take, nbytes in steps:
        if take:
            try:
                slots.append(arena.allocate(nbytes))
            except MemoryError:
                continue
        elif slots:
            arena.free(slots.pop(nbytes % len(slots)))
        slots.sort()
        assert all(a.end <= b.offset for a, b in pairwise(slots))
        assert all(slot.offset % ALIGNMENT == 0 and slot.nbytes >= 1 for slot in slots)
        assert arena.used == sum(slot.nbytes for slot in slots)
    for slot in slots:
        arena.free(slot)
    assert arena.allocate(arena.nbytes) == Slot(0, arena.nbytes)
    arena.close()


def rss_anon() -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_an_emptied_slot_stays_allocated_and_counts_as_resident() -> None:
    arena = Arena(4 * PAGE)
    slot = arena.allocate(2 * PAGE)
    view = arena.view(slot.offset, slot.nbytes)
    view[:] = b"x" * slot.nbytes
    arena.empty(slot)
    assert view[0] == view[-1] == 0
    assert arena.used == arena.resident == 2 * PAGE
    arena.free(slot)
    assert arena.trim(slot) == 2 * PAGE
    view.release()
    arena.close()


def test_a_slot_settles_in_the_first_hole_with_its_bytes(arena: Arena) -> None:
    first, second = arena.allocate(PAGE + 4096), arena.allocate(PAGE + 4096)
    content = bytes(range(256)) * (second.nbytes // 256)
    arena.view(first.offset, first.nbytes)
    arena.view(second.offset, second.nbytes)[:] = content
    arena.free(first)
    place = arena.settle(second, filled=True)
    assert place == Slot(0, second.nbytes)
    assert bytes(arena.view(0, second.nbytes)) == content  # it lay over its own new place
    assert (arena.used, arena.resident) == (second.nbytes, 2 * PAGE)
    assert arena.settle(place, filled=True) == place
    assert bytes(arena.view(0, second.nbytes)) == content


def test_a_slot_that_was_not_filled_settles_without_memory(arena: Arena) -> None:
    first, second = arena.allocate(PAGE), arena.allocate(PAGE)
    arena.free(first)
    assert arena.settle(second, filled=False).offset == 0
    assert arena.resident == 0


def test_only_what_is_used_of_the_last_page_is_backed() -> None:
    arena = Arena(PAGE + 4096)
    before = process_memory()
    arena.view(PAGE, 4096)[:] = b"x" * 4096
    assert process_memory() - before < PAGE // 2
    arena.close()
