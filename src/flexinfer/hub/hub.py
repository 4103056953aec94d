"""Models on the Hugging Face hub.

Everything goes through the hub's own client, so its cache, its token and its offline mode hold. A
header is read by ranges, before anything is downloaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError, RequestError
from flexinfer.gguf.catalogue import (
    Catalogue,
    FileSource,
    Source,
    join_shards,
    read_catalogue,
    read_header,
    shard_paths,
)
from flexinfer.hub import download as hub_download
from flexinfer.hub.reference import Choice, Reference, choose, is_reference, with_shards
from flexinfer.sizes import format_size

__all__ = ["download", "is_reference", "locate", "read_remote", "require_space"]


def read_remote(model: str) -> Catalogue:
    """The header of a model on the hub; of the weights, nothing is fetched.

    Raises:
        RequestError: `model` is no reference.
        ModelNotFoundError: no such repository or file, or no permission.
        ReadError: the hub does not answer.
    """
    choice = locate(Reference.parse(model))
    known = _cached(choice)
    if known is not None:
        return read_catalogue(known)
    with _hub_errors(choice.repo):
        first = _remote_header(choice, choice.files[0], 0)
        prefix = f"hf:{choice.repo}:"
        shards = [path.removeprefix(prefix) for path in shard_paths(first)[1:]]
        rest = [_remote_header(choice, file, number) for number, file in enumerate(shards, 1)]
    return join_shards([first, *rest])


def download(model: str) -> Path:
    """The path of the model's first file, downloaded unless the hub's cache has it.

    Broken downloads go on where they were. The hub's client shows its progress on stderr.

    Raises:
        RequestError: `model` is no reference, or the drive has too little space.
        ModelNotFoundError: no such repository or file, or no permission.
        ReadError: the hub does not answer.
    """
    choice = locate(Reference.parse(model))
    known = _cached(choice)
    if known is not None:
        return known
    from huggingface_hub import constants

    with _hub_errors(choice.repo):
        require_space(Path(constants.HF_HUB_CACHE), _missing(choice))
        paths = [hub_download.fetch(choice.repo, file) for file in choice.files]
    return Path(paths[0])


def locate(reference: Reference) -> Choice:
    """Which files a reference means: asked of the hub, or of its cache when that is out of reach.

    Raises:
        ModelNotFoundError: no such repository or file, or no permission.
        ReadError: the hub does not answer, and the cache has nothing.
    """
    try:
        with _hub_errors(reference.repo):
            sizes = _listed(reference.repo)
    except ReadError:
        sizes = _in_cache(reference.repo)
        if not sizes:
            raise
    first = choose(list(sizes), reference.want)
    files = with_shards(first, list(sizes))
    return Choice(reference.repo, files, tuple(sizes[file] for file in files))


def require_space(folder: Path, nbytes: int) -> None:
    """Check that the drive of `folder`, which need not exist, has room.

    Raises:
        RequestError: it has not.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise RequestError(
            f"the download needs {format_size(nbytes)} but {folder} has {format_size(free)} free; "
            "make room, or set HF_HOME to a folder on another drive"
        )


def _listed(repo: str) -> dict[str, int | None]:
    from huggingface_hub import HfApi

    tree = HfApi().list_repo_tree(repo, recursive=True)
    return {entry.path: entry.size for entry in tree if hasattr(entry, "size")}


def _in_cache(repo: str) -> dict[str, int | None]:
    """Files of the newest cached revision."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir()
    except CacheNotFound:
        return {}
    revisions = [r for known in found.repos if known.repo_id == repo for r in known.revisions]
    if not revisions:
        return {}
    newest = max(revisions, key=lambda revision: revision.last_modified)
    return {
        file.file_path.relative_to(newest.snapshot_path).as_posix(): file.size_on_disk
        for file in newest.files
    }


def _cached(choice: Choice) -> Path | None:
    """Path of the first file when the cache has all of them."""
    paths = [_cached_file(choice.repo, file) for file in choice.files]
    return paths[0] if all(paths) else None


def _cached_file(repo: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, file)
    return Path(path) if isinstance(path, str) else None


def _missing(choice: Choice) -> int:
    return sum(
        hub_download.missing_bytes(choice.repo, file, size or 0)
        for file, size in zip(choice.files, choice.sizes, strict=True)
        if _cached_file(choice.repo, file) is None
    )


def _remote_header(choice: Choice, file: str, number: int) -> Catalogue:
    from huggingface_hub import HfFileSystem

    local = _cached_file(choice.repo, file)
    if local is not None:
        with FileSource(local) as source:
            return read_header(source, file=number)
    name = f"hf:{choice.repo}:{file}"
    # No cache in between: the header's cursor asks for growing ranges, each of them once.
    with HfFileSystem().open(f"{choice.repo}/{file}", "rb", cache_type="none") as remote:
        return read_header(_RemoteSource(name, remote, int(remote.size)), file=number)


class _RemoteSource(Source):
    """A file on the hub that is read by ranges."""

    def __init__(self, name: str, remote: IO[bytes], size: int) -> None:
        self.name = name
        self.size = size
        self._remote = remote

    def read_at(self, offset: int, nbytes: int) -> bytes:
        self._remote.seek(offset)
        return self._remote.read(min(nbytes, self.size - offset))


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """The client's errors as ours, with what to do."""
    from huggingface_hub import errors

    try:
        yield
    except (ModelFileError, ReadError, RequestError):
        raise
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{repo} is gated: accept its terms on the hub, then log in with: hf auth login"
        ) from error
    except (errors.RepositoryNotFoundError, FileNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise ReadError(f"{repo} is not in the cache and {_out_of_reach()}") from error
        raise ModelNotFoundError(
            f"the hub has no {repo}, or it is private: check the name, or log in with: "
            "hf auth login"
        ) from error
    except Exception as error:
        # Client and transport have errors of many kinds, by version: requests', httpx', its own.
        raise ReadError(f"{repo}: {_out_of_reach()}: {_first_line(error)}") from error


def _out_of_reach() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the hub is not asked in offline mode (HF_HUB_OFFLINE)"
    return "the hub does not answer; check the network and try again"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
