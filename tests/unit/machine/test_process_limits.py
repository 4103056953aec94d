"""Limits of `ulimit` on this process, in bytes of memory."""

from __future__ import annotations

import resource

import pytest
from support.fake_system import STATUS, FakeSystem

from flexinfer.machine.process_limits import process_limit

MIB = 1 << 20


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Soft limits by number; what is not in it is unlimited."""
    known: dict[int, int] = {}
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(
        resource, "getrlimit", lambda number: (known.get(number, unlimited), unlimited)
    )
    return known


@pytest.fixture
def system(tmp_path: object) -> FakeSystem:
    system = FakeSystem(tmp_path)  # type: ignore[arg-type]
    mapped = "VmSize:\t  204800 kB\nVmData:\t  102400 kB\n"
    system.write("proc/self/status", STATUS.format(capabilities="0") + mapped)
    return system


def test_no_limit_is_none(system: FakeSystem, limits: dict[int, int]) -> None:
    assert process_limit(system.proc) is None


@pytest.mark.parametrize(
    ("number", "option", "room"),
    [(resource.RLIMIT_AS, "-v", 300), (resource.RLIMIT_DATA, "-d", 400)],
)
def test_what_is_mapped_counts(
    system: FakeSystem, limits: dict[int, int], number: int, option: str, room: int
) -> None:
    limits[number] = 500 * MIB
    found = process_limit(system.proc)
    assert found is not None
    assert (found.option, found.limit, found.room) == (option, 500 * MIB, room * MIB)


def test_the_tighter_one_binds(system: FakeSystem, limits: dict[int, int]) -> None:
    limits[resource.RLIMIT_AS], limits[resource.RLIMIT_DATA] = 500 * MIB, 350 * MIB
    found = process_limit(system.proc)
    assert found is not None
    assert (found.option, found.room) == ("-d", 250 * MIB)
    limits[resource.RLIMIT_DATA] = 50 * MIB
    again = process_limit(system.proc)
    assert again is not None
    assert again.room == 0
