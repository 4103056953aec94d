"""Tests of several processes beside each other, and those marked `alone` beside no other.

Where pytest-xdist has processes run tests, each test holds a lock that all of them share, or that
nobody shares. They pass one gate, so that a test that waits for the others is not overtaken.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """First come those that are alone: the other process has the short ones in between."""
    if _is_worker(config):
        items.sort(key=lambda item: not _is_alone(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hold the lock for a test with all that is set up and torn down for it."""
    if not _is_worker(item.config):
        return (yield)
    # The folder of this process lies in that of the whole run.
    run = Path(item.config.getoption("basetemp")).parent
    gate, lock = (os.open(run / name, os.O_CREAT | os.O_RDWR) for name in ("gate", "lock"))
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)
    finally:
        # A child that the test left behind may still have both open.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
        os.close(gate)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None
