"""From a plan to the layout of each weight: which parts it has, which rows they are of.

Nothing here holds memory: a part that is to stay has no address yet, unless it stayed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flexinfer.gguf.types import TensorInfo
from flexinfer.planning.plan import Plan
from flexinfer.planning.weights import Use, Weight, row_slices
from flexinfer.seam import ExpertPlace, Layout, Part, RowTable
from flexinfer.storage.experts.reads import Matrix


@dataclass(frozen=True)
class Held:
    """One weight of a loaded model: its tensor's address, its place in the file, its plan entry.

    `absent` is an address that faults when it is read.
    """

    address: int
    absent: int
    info: TensorInfo
    weight: Weight

    @property
    def whole(self) -> Part:
        """All rows as one part that does not stay."""
        return self.part(0, self.weight.rows, locked=False)

    def part(self, first: int, rows: int, *, locked: bool) -> Part:
        """`rows` rows from row `first`."""
        size = self.weight.row_bytes
        offset = self.info.offset + first * size
        return Part(self.info.name, self.info.file, offset, rows * size, first, rows, locked)


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
        name, absent = one.info.name, one.absent
        if plan.by_expert(one.weight):
            layout = Layout(name, absent, (), experts=places[one.address])
        else:
            parts = _parts(one, rows, plan.slice_bytes, kept.get((one.address, rows)))
            by_row = rows < one.weight.rows and one.weight.use in (Use.ROWS, Use.MATMUL)
            layout = Layout(name, absent, parts, table_of(one) if by_row else None)
        layouts[one.address] = layout
    return layouts


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
            matrix = Matrix(info.name, info.file, info.offset, info.nbytes // weight.experts)
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
