"""The rates of one quantisation with one set of kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TypeRates:
    """Rates of one type and one set of kernels, in bytes of weights a second.

    Attributes:
        row: of a pass over one row, from memory.
        rows: times the rows of a pass, where these are many.
        packing: at which one processor packs; 0 where nothing is packed.
    """

    row: float
    rows: float
    packing: float = 0.0
