"""What commands that write a model share: names that are free, how far they are, what failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flexinfer.errors import FlexInferError, RequestError
from flexinfer.gguf.types import paths_to_write


def require_free(out: Path, count: int, force: bool) -> None:
    """Refuse to replace a model at `out` that is there already.

    Args:
        count: of its files; more than one have numbers in their names.
        force: replace it.

    Raises:
        RequestError: there is one, or a file of one; or `out` has no name.
    """
    for taken in paths_to_write(out, count):
        if taken.exists() and not force:
            raise RequestError(
                f"{taken} is there already; give another name, or --force to replace it"
            )


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say of an error of the drive that `out` cannot be written.

    Raises:
        RequestError: so.
    """
    try:
        yield
    except FlexInferError:
        raise  # what could not be read is no error of what is written
    except OSError as error:
        raise RequestError(f"{out} cannot be written: {error.strerror}") from error


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, when somebody looks at it; is told bytes that are done, and their total."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("")
        yield lambda done, total: shown.update(task, completed=done, total=total)
