"""Writing a packed copy of a model: what is packed on its way to memory, packed once for good."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from flexinfer.errors import ReadError, RequestError, UnsupportedError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.packed_file import MARK, names_of_packed
from flexinfer.gguf.source import FileSource
from flexinfer.gguf.types import TensorInfo, paths_to_write
from flexinfer.llama import Llama
from flexinfer.memory.pages import address_of
from flexinfer.seam import Packing
from flexinfer.whole_file import require_room, whole_file

_CHUNK = 8 << 20
# A multiple of the rows that any kernels interleave.
_GROUP = 16

# A weight in the file, with the way it is packed.
_Packed = tuple[TensorInfo, Packing]


def pack(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Path, ...]:
    """Write a copy of a model whose weights are packed as llama.cpp packs them here; its paths.

    Given as one of `mirrors` of `Llama`, with the model, it is read instead of the model and
    nothing is packed between drive and memory. Bits and memory are the same. It is as large as the
    model, and only good for a processor with the same kernels.

    Args:
        model: path of a GGUF file, the first of a split one.
        out: path of the copy; that of a split one gets numbers, as shards have them.
        progress: is called with the bytes written and their total.

    Raises:
        ModelFileError, ModelNotFoundError, BudgetError: the model cannot be run here.
        UnsupportedError: this processor packs none of its weights.
        ReadError: the drive failed, or the model was cut short meanwhile.
        RequestError: no room for it, no name, or it would replace the model.
        OSError: it cannot be written.
    """
    # Only its graphs show which weights are.
    with Llama(os.fspath(model), repack=True, n_ctx=1024, verbose=False) as llm:
        held, catalogue = llm._storage().held, llm.catalogue
    packed = [(one.info, one.packing) for one in held if one.packing is not None]
    if not packed:
        raise UnsupportedError(
            f"{catalogue.paths[0]} has no weights that kernels of this processor want packed; run "
            "it as it is"
        )
    paths = _paths(catalogue, Path(out))
    sizes = catalogue.sizes
    for number, path in enumerate(paths):
        here = [one for one in packed if one[0].file == number]
        report = _Report(progress, sum(sizes[:number]), sum(sizes))
        _write(catalogue.paths[number], here, path, report)
    return paths


@dataclass(frozen=True)
class _Report:
    """Tells how far the copy of one file is, among all of them."""

    progress: Callable[[int, int], None]
    before: int
    total: int

    def tell(self, nbytes: int) -> None:
        self.progress(self.before + nbytes, self.total)


def _write(model: str, packed: Sequence[_Packed], path: Path, report: _Report) -> None:
    """Write the copy of one file."""
    with (
        FileSource(model) as source,
        whole_file(path, durable=True) as partial,
        partial.open("wb") as file,
    ):
        for piece in _pieces(source, packed):
            file.write(piece)
            report.tell(file.tell())
        file.write(names_of_packed(info.name for info, _ in packed))


def _paths(catalogue: Catalogue, out: Path) -> tuple[Path, ...]:
    paths = paths_to_write(out, len(catalogue.paths))
    require_room(out.parent, "the copy", sum(catalogue.sizes), "choose another folder")
    for path in paths:
        if any(path.exists() and path.samefile(other) for other in catalogue.paths):
            raise RequestError(f"{path} is the model itself; give the copy another name")
    return paths


def _pieces(source: FileSource, packed: Sequence[_Packed]) -> Iterator[bytes | bytearray]:
    """The whole copy but for the names at its end, in order."""
    ordered = sorted(packed, key=lambda one: one[0].offset)
    yield MARK
    at = len(MARK)
    for info, packing in ordered:
        yield from _read(source, at, info.offset)
        for start, stop in _groups(info):
            piece = bytearray().join(_read(source, start, stop))
            packing.pack(address_of(piece), len(piece))
            yield piece
        at = info.offset + info.nbytes
    yield from _read(source, at, source.size)


def _groups(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """Where in the file whole groups of rows begin and end, of one matrix after the other."""
    step = max(_CHUNK // info.row_bytes // _GROUP, 1) * _GROUP * info.row_bytes
    matrix = info.shape[1] * info.row_bytes
    for first in range(info.offset, info.offset + info.nbytes, matrix):
        yield from pairwise((*range(first, first + matrix, step), first + matrix))


def _read(source: FileSource, start: int, stop: int) -> Iterator[bytes]:
    while start < stop:
        piece = source.read_at(start, min(stop - start, _CHUNK))
        if not piece:
            raise ReadError(
                f"{source.name} ended at byte {start} of {source.size} while it was packed; leave "
                "it alone meanwhile, and pack it again"
            )
        yield piece
        start += len(piece)
