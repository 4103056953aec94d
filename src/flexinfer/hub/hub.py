"""Models on the Hugging Face hub.

Everything goes through the hub's own client, so its cache, its token and its offline mode hold. A
header is read by ranges, before anything is downloaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from flexinfer.errors import FlexInferError, ModelNotFoundError, RequestError
from flexinfer.gguf.catalogue import (
    Catalogue,
    join_shards,
    read_catalogue,
    read_header,
    shard_paths,
)
from flexinfer.gguf.source import FileSource
from flexinfer.hub import download as hub_download
from flexinfer.hub.cache import cached_file, cached_files, require_home
from flexinfer.hub.failures import hub_errors
from flexinfer.hub.reference import Choice, Reference, choose, is_reference, is_settled, with_shards
from flexinfer.hub.remote import RemoteSource
from flexinfer.sizes import format_size

__all__ = ["download", "is_reference", "locate", "read_remote", "require_space"]

# How long the hub may take to say what it has; and where the cache has something that would do.
_PATIENCE_SECONDS = 20.0
_SHORT_PATIENCE_SECONDS = 3.0


def locate(model: str) -> Choice:
    """Which files a reference means.

    What the cache has under the name that is asked for is taken as it is. Otherwise the hub says
    what there is; what the cache has instead is taken when the hub is out of reach.

    Raises:
        RequestError: `model` is no reference.
        ModelNotFoundError: no such repository or file, or no permission.
        ReadError: the hub does not answer, and the cache has nothing.
    """
    reference = Reference.parse(model)
    here = _choice_of_cache(reference)
    if here is not None and is_settled(reference.want, here.files[0]):
        return here
    try:
        with hub_errors(reference.repo):
            patience = _PATIENCE_SECONDS if here is None else _SHORT_PATIENCE_SECONDS
            listed = _listed(reference, patience)
    except FlexInferError:
        if here is None:
            raise
        return here
    return _choice(reference, listed)


def read_remote(choice: Choice) -> Catalogue:
    """The header of a model on the hub; of the weights, nothing is fetched.

    Raises:
        ModelNotFoundError: a file is missing, or no permission.
        ReadError: the hub does not answer.
    """
    known = _cached(choice)
    if known is not None:
        return read_catalogue(known)
    with hub_errors(choice.repo):
        first = _remote_header(choice, choice.files[0], 0)
        prefix = choice.name("")
        shards = [path.removeprefix(prefix) for path in shard_paths(first)[1:]]
        rest = [_remote_header(choice, file, number) for number, file in enumerate(shards, 1)]
    return join_shards([first, *rest])


def download(choice: Choice) -> Path:
    """The path of the model's first file, downloaded unless the hub's cache has it.

    Broken downloads go on where they were. The hub's client shows its progress on stderr.

    Raises:
        RequestError: the drive has too little space, or nothing can be written to it.
        ModelNotFoundError: a file is missing, or no permission.
        ReadError: the hub does not answer.
    """
    known = _cached(choice)
    if known is not None:
        return known
    folder = require_home()
    with hub_errors(choice.repo):
        require_space(folder, _missing(choice))
        paths = [hub_download.fetch(choice.repo, file, choice.revision) for file in choice.files]
    return Path(paths[0])


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


def _choice_of_cache(reference: Reference) -> Choice | None:
    """What the cache has for the reference, as a whole."""
    try:
        return _choice(reference, cached_files(reference.repo, reference.revision))
    except ModelNotFoundError:
        return None


def _choice(reference: Reference, sizes: dict[str, int | None]) -> Choice:
    first = choose(list(sizes), reference.want)
    files = with_shards(first, list(sizes))
    return Choice(reference.repo, files, tuple(sizes[file] for file in files), reference.revision)


def _listed(reference: Reference, patience: float) -> dict[str, int | None]:
    """All files of the repository; asked for once, as the client's own retries take minutes."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(
        reference.repo, revision=reference.revision, files_metadata=True, timeout=patience
    )
    return {file.rfilename: file.size for file in info.siblings or []}


def _cached(choice: Choice) -> Path | None:
    """Path of the first file when the cache has all of them."""
    paths = [cached_file(choice.repo, file, choice.revision) for file in choice.files]
    return paths[0] if all(paths) else None


def _missing(choice: Choice) -> int:
    return sum(
        hub_download.missing_bytes(choice.repo, file, size or 0, choice.revision)
        for file, size in zip(choice.files, choice.sizes, strict=True)
        if cached_file(choice.repo, file, choice.revision) is None
    )


def _remote_header(choice: Choice, file: str, number: int) -> Catalogue:
    local = cached_file(choice.repo, file, choice.revision)
    if local is not None:
        with FileSource(local) as source:
            return read_header(source, file=number)
    # The header's cursor asks for growing ranges, each of them once.
    remote = RemoteSource(choice.name(file), choice.repo, file, choice.revision)
    return read_header(remote, file=number)
