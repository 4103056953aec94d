"""What was measured once, in one small file in the user's cache folder.

It is the only thing that this package writes by default. A file that cannot be read or written, or
a user without a folder, is as if nothing had been measured.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flexinfer.whole_file import whole_file

_FILE = "rates.json"
_KEPT_SECONDS = 30 * 24 * 3600.0
# Far above what a month of models comes to.
_LARGEST = 1 << 20


def cache_folder() -> Path | None:
    """The user's cache folder of this package, which need not exist.

    None where there is no place for one: no home folder, or one that is only named.
    """
    import platformdirs  # late: it is needed once per model

    try:
        folder = Path(platformdirs.user_cache_dir("flexinfer", appauthor=False))
    except (RuntimeError, KeyError, ValueError):
        return None
    # Nobody's home is made, and what is not absolute is to be ignored (XDG base directories).
    return folder if folder.is_absolute() and os.path.isdir(folder.parent.parent) else None


class Remembered:
    """Documents by key, each forgotten after a month.

    Args:
        folder: where the file is (None: the user's cache folder).
    """

    def __init__(self, folder: Path | None = None) -> None:
        place = folder or cache_folder()
        self.path = place / _FILE if place is not None else None

    def get(self, key: str) -> dict[str, Any] | None:
        entry = self._entries().get(key)
        return entry if _is_fresh(entry) else None

    def put(self, key: str, document: dict[str, Any]) -> None:
        if self.path is None:
            return
        known = {name: entry for name, entry in self._entries().items() if _is_fresh(entry)}
        known[key] = {**document, "when": time.time()}
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as fresh:
                fresh.write_text(json.dumps(known, indent=1), encoding="utf-8")

    def _entries(self) -> dict[str, Any]:
        # Not blocking: whatever lies there under the name, nobody waits for it.
        with suppress(OSError, ValueError, RecursionError):
            if self.path is not None and self.path.is_file():
                with open(self.path, encoding="utf-8") as file:
                    entries = json.loads(file.read(_LARGEST))
                if isinstance(entries, dict):
                    return entries
        return {}


def _is_fresh(entry: object) -> bool:
    when = entry.get("when") if isinstance(entry, dict) else None
    return isinstance(when, (int, float)) and 0 <= time.time() - when < _KEPT_SECONDS
