"""What was measured once, in one small file in the user's cache folder.

It is the only thing that this package writes by default. A file that cannot be read or written is
as if it were not there.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flexinfer.whole_file import whole_file

_FILE = "rates.json"
_KEPT_SECONDS = 30 * 24 * 3600.0


def cache_folder() -> Path:
    """The user's cache folder of this package; it need not exist."""
    import platformdirs  # late: it is needed once per model

    return Path(platformdirs.user_cache_dir("flexinfer", appauthor=False))


class Remembered:
    """Documents by key, each forgotten after a month.

    Args:
        folder: where the file is (None: the user's cache folder).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / _FILE

    def get(self, key: str) -> dict[str, Any] | None:
        entry = self._entries().get(key)
        with suppress(TypeError, KeyError):
            if entry is not None and 0 <= time.time() - entry["when"] < _KEPT_SECONDS:
                return dict(entry)
        return None

    def put(self, key: str, document: dict[str, Any]) -> None:
        entries = self._entries()
        entries[key] = {**document, "when": time.time()}
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as fresh:
                fresh.write_text(json.dumps(entries, indent=1))

    def _entries(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            entries = json.loads(self.path.read_text())
            if isinstance(entries, dict):
                return entries
        return {}
