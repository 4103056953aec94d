"""From a plan to the layout of each weight: which parts it has, which rows they are of.

Nothing here holds memory: a part that is to stay has no address yet, unless it stayed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flexinfer.gguf.types import TensorInfo
from flexinfer.planning.plan import Plan
from flexinfer.planning.weights import Use, Weight, row_slices
from flexinfer.seam import ExpertPlace, Layout, Packing, Part, RowTable
from flexinfer.storage.experts.reads import Matrix


@dataclass(frozen=True)
class Held:
    """One weight of a loaded model: its tensor's address, its place in the file, its plan entry.

    `absent` is an address that faults when it is read. With `packing` it is packed in memory, but
    for the rows of one that is `looked_up` row by row. Where the file of `info` has it packed
    already, `plain_file` is the number of the one that has it as the model does.
    """

    address: int
    absent: int
    info: TensorInfo
    weight: Weight
    packing: Packing | None = None
    looked_up: bool = False
    plain_file: int | None = None

    @property
    def whole(self) -> Part:
        """All rows, as the model has them, as one part that does not stay."""
        file = self.info.file if self.plain_file is None else self.plain_file
        rows, nbytes = self.weight.rows, self.info.nbytes
        return Part(self.info.name, file, self.info.offset, nbytes, 0, rows, locked=False)

    @property
    def stored(self) -> tuple[int, Packing | None]:
        """Which file has the bytes that memory is to have, and how these are still packed."""
        if self.plain_file is None:
            return self.info.file, self.packing
        return (self.info.file, None) if self.packing else (self.plain_file, None)

    def part(self, first: int, rows: int, *, locked: bool) -> Part:
        """`rows` rows from row `first`."""
        size, (file, packing) = self.weight.row_bytes, self.stored
        offset = self.info.offset + first * size
        return Part(self.info.name, file, offset, rows * size, first, rows, locked, packing)


def lay_out(
    held: Sequence[Held],
    plan: Plan,
    before: Mapping[int, Layout],
    table_of: Callable[[Held], RowTable],
) -> dict[int, Layout]:
    """The layout of each weight under `plan`, by the address of its tensor.

    Args:
        held: all weights, in the order of the plan.
        before: layouts under another plan; what is locked in the same way stays the same part.
        table_of: the table of a weight that is read row by row.
    """
    kept = {
        (address, part.rows): part
        for address, layout in before.items()
        for part in layout.parts
        if part.locked
    }
    places = _places(held)
    layouts = {}
    for one, rows in zip(held, plan.locked_rows, strict=True):
        name, absent, packing = one.info.name, one.absent, one.packing
        if plan.by_expert(one.weight):
            place = places[one.address]
            layout = Layout(name, absent, (), experts=place, packing=packing)
        else:
            parts = _parts(one, rows, plan.slice_bytes, kept.get((one.address, rows)))
            table = table_of(one) if _read_by_row(one, rows) else None
            layout = Layout(name, absent, parts, table, packing=packing)
        layouts[one.address] = layout
    return layouts


def _read_by_row(held: Held, locked: int) -> bool:
    """Whether rows may have to be read on demand: where none are there as the file has them."""
    if held.packing is not None and held.looked_up:
        return True
    return locked < held.weight.rows and held.weight.use in (Use.ROWS, Use.MATMUL)


def _parts(held: Held, locked: int, slice_bytes: int, known: Part | None) -> tuple[Part, ...]:
    """The rows that stay as one part, the others in slices."""
    parts = [known or held.part(0, locked, locked=True)] if locked else []
    slices = row_slices(held.weight, locked, slice_bytes)
    parts += [held.part(first, rows, locked=False) for first, rows in slices]
    return tuple(parts)


def locked_parts(layouts: Mapping[int, Layout]) -> list[Part]:
    """All parts that stay."""
    return [part for layout in layouts.values() for part in layout.parts if part.locked]


def expert_groups(held: Iterable[Held]) -> list[tuple[list[Matrix], int]]:
    """The matrices of each group of weights with one routing, and how many experts it has."""
    groups: dict[int, tuple[list[Matrix], int]] = {}
    for one in held:
        weight, info = one.weight, one.info
        if weight.group is not None:
            size = info.nbytes // weight.experts
            file, packing = one.stored
            matrix = Matrix(info.name, file, info.offset, size, packing)
            groups.setdefault(weight.group, ([], weight.experts))[0].append(matrix)
    return [groups[group] for group in sorted(groups)]


def _places(held: Iterable[Held]) -> dict[int, ExpertPlace]:
    """Which matrix of which group each weight with experts is, as `expert_groups` counts them."""
    counts: dict[int, int] = {}
    places = {}
    for one in held:
        group = one.weight.group
        if group is not None:
            places[one.address] = ExpertPlace(group, counts.get(group, 0))
            counts[group] = counts.get(group, 0) + 1
    return places
