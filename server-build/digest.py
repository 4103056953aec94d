"""Names these sources: what is compiled from them tells it, and what opens it compares."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SUFFIXES = (".c", ".cpp", ".h", ".map", ".py", ".txt")


def sources_digest(folder: Path) -> str:
    """Of all files in `folder` that decide what is built."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file():
            name = path.relative_to(folder).as_posix()
            found.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
