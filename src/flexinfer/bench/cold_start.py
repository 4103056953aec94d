"""The state of the machine in which a first token is timed: empty page cache, memory at hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TOUCH = """
import sys
from flexinfer.memory.pages import PAGE, Arena
nbytes = int(sys.argv[1])
view = Arena(nbytes).view(0, nbytes)
for at in range(0, nbytes, PAGE):
    view[at] = 1
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def cold_start(memory: int) -> Iterator[None]:
    """Empty the page cache, and have so many bytes of free memory that were touched just before.

    A virtual machine is given memory at its first touch, up to ten times slower than afterwards,
    and gives free memory back within seconds. So another process touches some and lets it go at
    the end of the block: start there what is measured.
    """
    Path("/proc/sys/vm/drop_caches").write_text("3")
    process = subprocess.Popen(
        [sys.executable, "-c", _TOUCH, str(memory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate()
