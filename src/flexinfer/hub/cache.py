"""What the hub's cache on this machine has of a repository; the hub is not asked.

Layout of ``models--USER--REPO``: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import os
from pathlib import Path

from flexinfer.errors import RequestError

_MAIN = "main"


def cached_files(repo: str, revision: str | None) -> dict[str, int | None]:
    """GGUF files of a revision that are here, with their sizes in bytes."""
    snapshot = _snapshot(repo, revision or _MAIN)
    if snapshot is None:
        return {}
    found = (path for path in snapshot.rglob("*.gguf") if path.is_file())
    return {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in found}


def cached_file(repo: str, file: str, revision: str | None) -> Path | None:
    """Path of a file that is here."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, file, revision=revision)
    return Path(path) if isinstance(path, str) and os.path.exists(path) else None


def blob_path(repo: str, etag: str) -> Path:
    """Where the bytes of a file are, or will be."""
    return _folder(repo) / "blobs" / etag


def require_home() -> Path:
    """The cache's folder, which need not exist.

    Raises:
        RequestError: there is no home folder that it could be in.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    # Without a home folder the client would make one that is called "~" where we are.
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        raise RequestError(
            "there is no home folder to keep the download in; set HF_HOME to a folder"
        )
    return folder


def _snapshot(repo: str, revision: str) -> Path | None:
    """Folder of the files of a branch, a tag or a commit."""
    folder = _folder(repo)
    try:
        commit = (folder / "refs" / revision).read_text().strip()
        return (folder / "snapshots" / commit) if commit else None
    except (OSError, ValueError):
        snapshot = folder / "snapshots" / revision
        return snapshot if os.path.isdir(snapshot) else None


def _folder(repo: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
