"""What is timed, a type in one kind of product, and the rates of it with one set of kernels."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from flexinfer.gguf.types import QuantType


@dataclass(frozen=True)
class Product:
    """Weights of one type; of `routed` ones each token picks matrices, by other kernels."""

    kind: QuantType
    routed: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind.name} by expert" if self.routed else self.kind.name


@dataclass(frozen=True)
class TypeRates:
    """Rates of one product and one set of kernels, in bytes of weights a second.

    Attributes:
        row: of a pass over one row, from memory.
        rows: times the rows of a pass, where these are many.
        packing: at which one processor packs; 0 where nothing is packed.
    """

    row: float
    rows: float
    packing: float = 0.0

    def best(self, other: TypeRates) -> TypeRates:
        """The higher of each: what is slower was disturbed."""
        return TypeRates(*map(max, astuple(self), astuple(other)))
