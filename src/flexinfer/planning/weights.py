"""What plans are made of: weights as a graph uses them, and what pieces of them take in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from flexinfer.sizes import ALIGNMENT

# A direct read takes the aligned range around a part: up to one block more at both ends.
SPAN_SLACK = 2 * ALIGNMENT


class Use(str, Enum):
    """How a graph reads a weight."""

    MATMUL = "matmul"  # may be cut in row slices
    WHOLE = "whole"  # needed whole
    ROWS = "rows"  # a few rows a pass, read on demand
    EXPERTS = "experts"  # a matrix for each expert
    IDLE = "idle"  # no known graph reads it; whole, if one comes up


# Passes read none of these as a whole: they cost nothing to leave unlocked.
ON_DEMAND = frozenset({Use.ROWS, Use.IDLE})


@dataclass(frozen=True)
class Weight:
    """One weight, in the order in which the graph first uses it.

    Attributes:
        row_step: a cut is a multiple of this many rows; 0: never cut.
        layer: number of its block, if it has one; like `role` ("attn_q"), read only by the
            paper's strategies and by pictures.
        compute_s: seconds of one token's work with it, in memory; only ratios matter.
        experts: matrices it consists of, of which one token uses `used`; 1 and 1 if it has none.
        group: number of the set of weights that share its routing, if it has one.
    """

    name: str
    nbytes: int
    rows: int
    use: Use
    row_step: int = 0
    layer: int | None = None
    role: str | None = None
    compute_s: float = 0.0
    experts: int = 1
    used: int = 1
    group: int | None = None

    @property
    def row_bytes(self) -> int:
        return self.nbytes // self.rows

    @property
    def token_bytes(self) -> int:
        """Bytes that one token uses."""
        return self.nbytes // self.experts * min(self.used, self.experts)


def span_bytes(nbytes: int) -> int:
    """Bytes that the aligned range around `nbytes` may take, wherever they begin."""
    return -(-(nbytes + SPAN_SLACK) // ALIGNMENT) * ALIGNMENT


def piece_cost(weight: Weight, rows: int) -> int:
    """Bytes that `rows` rows take in memory: the aligned range around them."""
    return span_bytes(weight.row_bytes * rows)


def whole_cost(weight: Weight) -> int:
    """Bytes that all of `weight` takes in memory."""
    return piece_cost(weight, weight.rows)


def expert_cost(weight: Weight) -> int:
    """Bytes that one matrix of `weight` takes in memory."""
    return piece_cost(weight, weight.rows // weight.experts)


def group_bytes(weights: Iterable[Weight]) -> list[int]:
    """Bytes of one expert, all its matrices, for each group."""
    sizes: dict[int, int] = {}
    for weight in weights:
        if weight.group is not None:
            sizes[weight.group] = sizes.get(weight.group, 0) + expert_cost(weight)
    return [sizes[group] for group in sorted(sizes)]


def row_slices(weight: Weight, first_row: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Row ranges (first, count) that cover the rows from `first_row`, as equal as the step allows.

    Each is at most `slice_bytes` where the step allows it, and none is shorter than one step but
    a whole remainder: a short last range would make ggml choose other kernels.
    """
    rows = weight.rows - first_row
    if rows <= 0:
        return []
    step = weight.row_step
    if not step or rows * weight.row_bytes <= slice_bytes:
        return [(first_row, rows)]
    steps = rows // step
    largest = max(slice_bytes // (step * weight.row_bytes), 1)
    count = min(-(-steps // largest), steps) or 1
    ranges = []
    at = first_row
    for number in range(count):
        length = (steps * (number + 1) // count - steps * number // count) * step
        if number == count - 1:
            length = weight.rows - at
        ranges.append((at, length))
        at += length
    return ranges
