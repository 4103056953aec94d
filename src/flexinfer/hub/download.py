"""Downloads into the hub's cache that go on where an earlier process stopped.

The hub's client (as of 2.x) names its temporary files anew in each process, so it begins again
after Ctrl-C. Here the part that came is kept under the blob's name; a finished blob is then found
by the client, which enters it into its cache.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from flexinfer.hub.cache import blob_path

# So much is asked for at a time: the hub answers no request of over 50 GB, and an address that it
# refers to expires after a while.
_PIECE = 4 * 10**9
_SUFFIX = ".flexinfer-part"


def fetch(repo: str, file: str, revision: str | None) -> str:
    """Path in the hub's cache of a file, downloaded or completed if need be.

    Raises:
        Exception: whatever the hub's client raises.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision)
    metadata = get_hf_file_metadata(url)
    if metadata.etag and metadata.size:
        _fetch_blob(blob_path(repo, metadata.etag), url, metadata.size)
    return str(hf_hub_download(repo, file, revision=revision))


def missing_bytes(repo: str, file: str, size: int, revision: str | None) -> int:
    """Bytes that are still to come of a file of `size` bytes, at most."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    etag = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision)).etag
    part = _part(blob_path(repo, etag)) if etag else None
    return size - (part.stat().st_size if part is not None and part.exists() else 0)


def _part(blob: Path) -> Path:
    return blob.with_name(blob.name + _SUFFIX)


def _fetch_blob(blob: Path, url: str, size: int) -> None:
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered: what came before the process ended is in the file.
    with open(_part(blob), "ab", buffering=0) as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # another process is at it; the client downloads on its own
        if os.fstat(part.fileno()).st_size > size:
            part.truncate(0)
        have = part.seek(0, os.SEEK_END)
        name = Path(urlsplit(url).path).name
        with tqdm(desc=name, total=size, initial=have, unit="B", unit_scale=True) as progress:  # type: ignore[no-untyped-call]
            while have < size:
                stop = min(have + _PIECE, size)
                _append(part, url, have, stop, progress)
                have = part.seek(0, os.SEEK_END)
        os.replace(part.name, blob)


def _append(part: BinaryIO, url: str, have: int, stop: int, progress: Any) -> None:
    """Fetch bytes `have` to `stop`."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    location = get_hf_file_metadata(url).location
    headers = build_hf_headers()
    if urlsplit(url).netloc != urlsplit(location).netloc:
        # The token is for the hub, not for the store that it refers to.
        headers.pop("authorization", None)
    # The client takes what is there already off the range.
    headers["Range"] = f"bytes=0-{stop - 1}"
    http_get(
        location,
        part,
        resume_size=have,
        headers=headers,
        expected_size=stop,
        _tqdm_bar=progress,
    )
