"""What pictures of a plan show: the grid of layers by tensors, and what the budget is spent on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flexinfer.planning.plan import Plan
from flexinfer.planning.weights import ON_DEMAND, Use, Weight


@dataclass(frozen=True)
class Cell:
    """`nbytes` of weights, of which `locked` stay; `on_demand`: read by rows, never as a whole."""

    nbytes: int = 0
    locked: int = 0
    on_demand: bool = False

    @property
    def share(self) -> float:
        """Of the bytes, what stays in memory."""
        return self.locked / self.nbytes if self.nbytes else 0.0

    def __add__(self, other: Cell) -> Cell:
        return Cell(
            self.nbytes + other.nbytes,
            self.locked + other.locked,
            self.on_demand or other.on_demand,
        )


@dataclass(frozen=True)
class Grid:
    """Rows are kinds of tensors, columns are layers; `others` are weights outside of layers.

    Of these, what is below a thousandth of the model is left out.
    """

    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    cells: dict[tuple[str, int], Cell]
    others: dict[str, Cell]

    @classmethod
    def of(cls, plan: Plan) -> Grid:
        cells: dict[tuple[str, int], Cell] = {}
        others: dict[str, Cell] = {}
        for weight, rows in zip(plan.weights, plan.locked_rows, strict=True):
            cell = _cell(plan, weight, rows)
            if weight.layer is None:
                if weight.nbytes * 1000 >= plan.weight_bytes:
                    others[weight.name.removesuffix(".weight")] = cell
                continue
            # Norms, biases and the like: too small to be seen beside matrices.
            kind = "small" if weight.use is Use.WHOLE else weight.role or "other"
            key = (kind, weight.layer)
            cells[key] = cells.get(key, Cell()) + cell
        layers = sorted({layer for _, layer in cells})
        return cls(tuple(layers), tuple(_ordered(kind for kind, _ in cells)), cells, others)

    def total(self, kind: str) -> Cell:
        """All layers of one kind together."""
        return sum((self.cells.get((kind, layer), Cell()) for layer in self.layers), Cell())


def _cell(plan: Plan, weight: Weight, rows: int) -> Cell:
    if plan.by_expert(weight) and weight.group is not None:
        slots = plan.slots[weight.group]
        locked = weight.nbytes // weight.experts * min(slots, weight.experts)
        return Cell(weight.nbytes, locked)
    return Cell(weight.nbytes, weight.row_bytes * rows, weight.use in ON_DEMAND)


def _ordered(kinds: Iterable[str]) -> list[str]:
    """As they first come, small ones last."""
    found = list(dict.fromkeys(kinds))
    return sorted(found, key=lambda kind: kind == "small")


def memory_parts(plan: Plan) -> dict[str, int]:
    """Bytes by purpose, in the order in which they are drawn; `free` only under a budget."""
    window = plan.window + plan.expert_window
    parts = {
        "overhead": plan.costs.overhead,
        "kv": plan.costs.kv,
        "compute": plan.costs.compute,
        "locked": plan.held_bytes - window,
        "window": window,
    }
    if plan.request.weight_memory is None:
        parts["free"] = max(plan.request.budget - plan.total, 0)
    return parts
