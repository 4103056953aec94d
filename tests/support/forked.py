"""What a forked child finds, told by how it ends."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

# A child that hangs is ended.
_SECONDS = 60


def in_child(check: Callable[[], bool]) -> int:
    """Exit code of a child that runs `check`: 0 if it holds, 1 if not, 2 if it raised."""
    child = os.fork()
    if not child:
        signal.alarm(_SECONDS)
        try:
            os._exit(0 if check() else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
