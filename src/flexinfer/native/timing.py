"""How long a call takes at its best: whatever else runs only ever adds to it."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_seconds(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
