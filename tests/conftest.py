from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves a thread or a descriptor behind."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    gc.collect()
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and set(threading.enumerate()) - threads:
        time.sleep(0.01)
    assert set(threading.enumerate()) - threads == set()
    assert _descriptors() - descriptors == set()


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if not target.startswith("/proc/"):
            found.add((number, target))
    return found
