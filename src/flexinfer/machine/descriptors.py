"""How many files this process may have open, held against how many a model has."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from flexinfer.errors import RequestError
from flexinfer.machine.cgroups import PROC

# What opening a model needs beside its files: caches, figures of the system, a child's pipes.
_MORE = 24


def require_descriptors(files: int, proc: Path = PROC) -> None:
    """See to it that so many files can be open at a time, beside those that are.

    The limit is raised as far as this process may raise it.

    Raises:
        RequestError: that is not enough.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir(proc / "self/fd")) + files + _MORE
    if limit == resource.RLIM_INFINITY or needed <= limit:
        return
    if most != resource.RLIM_INFINITY and needed > most:
        raise RequestError(
            f"the model has {files} files, but ulimit -n lets this process have {most} open and "
            f"{needed - files} are needed beside them; raise it with ulimit -n {needed}, or join "
            "the shards into one file"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
