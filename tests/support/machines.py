"""A machine with nothing to complain about, to be varied by tests."""

from __future__ import annotations

from flexinfer.machine.machine import Machine

GIB = 1 << 30
FINE = Machine(
    cores=8,
    memory_total=32 * GIB,
    memory_available=24 * GIB,
    swap_total=0,
    cgroup_limit=None,
    cgroup_used=None,
    memlock=None,
    huge_pages="madvise",
)
