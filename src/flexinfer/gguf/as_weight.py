"""A tensor of a file as the planner's weight, and what batches take beside it.

Whether a weight's use is read from a graph or guessed from its name, the rest follows alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flexinfer.gguf.types import TensorInfo
from flexinfer.planning.weights import SPAN_SLACK, Use, Weight

# What the process still grows by after the plan: programs, reader threads, the sampler, the
# binding's batch and Python's own heap. Measured as the difference to what was settled.
GROWTH = 20 << 20
# A tensor of a block: its number and its role.
BLOCK = re.compile(r"\bblk\.(\d+)\.(.+?)(?:\.weight)?\Z")
_SLICE_ROWS = 16
_FLOATS = frozenset({"f32", "f16", "bf16"})


def as_weight(
    info: TensorInfo,
    use: Use,
    threads: int,
    *,
    experts: int = 1,
    used: int = 1,
    group: int | None = None,
) -> Weight:
    """The weight of `info`; rows may be cut where that changes no bit with so many threads."""
    block = BLOCK.search(info.name)
    step = _SLICE_ROWS * threads if use is Use.MATMUL else 0
    if info.type.name in _FLOATS and info.rows % 4:
        step = 0
    return Weight(
        name=info.name,
        nbytes=info.nbytes,
        rows=info.rows,
        use=use,
        row_step=step if info.rows > step else 0,
        layer=int(block[1]) if block else None,
        role=block[2] if block else None,
        experts=experts,
        used=used,
        group=group,
    )


def looked_up_bytes(tables: Iterable[TensorInfo], ubatch: int) -> int:
    """Bytes that single rows of embeddings, tied ones too, take in a batch."""
    return sum(min(ubatch * (info.row_bytes + SPAN_SLACK), info.nbytes) for info in tables)


def encoded_bytes(vocabulary: int, width: int, ubatch: int) -> int:
    """Bytes of logits and embeddings that an encoder hands out for a whole batch."""
    return 4 * (vocabulary + width) * ubatch


def gathered_bytes(experts: Iterable[TensorInfo], ubatch: int) -> int:
    """Bytes that the inputs and outputs of one expert's rows take in a batch."""
    return max((ubatch * 4 * 2 * sum(info.shape[:2]) for info in experts), default=0)
