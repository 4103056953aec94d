"""The two sides of a benchmark: the kernels of ours, and of the llama.cpp beside it."""

from __future__ import annotations

from dataclasses import dataclass

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.machine.machine import Machine
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.kernels import kernels_for

REFERENCES = {"stock": Kernels.PACKED, "no-repack": Kernels.PLAIN}
SAME = "same"


@dataclass(frozen=True)
class Sides:
    """Kernels of ours, and those of the llama.cpp that it is held against."""

    ours: Kernels
    reference: Kernels

    @classmethod
    def of(cls, model: str, repack: bool | None, reference: str = SAME) -> Sides:
        """`repack` is decided once where it is None; `reference` as on the command line."""
        ours = kernels_for(read_catalogue(model), Machine.detect(), repack)
        return cls(ours, REFERENCES.get(reference, ours))

    def __str__(self) -> str:
        return f"ours with {self.ours.value} kernels, beside {self.reference.reference}"

    @property
    def own(self) -> dict[str, bool]:
        """Options of our worker."""
        return {"repack": self.ours is Kernels.PACKED}

    @property
    def beside(self) -> dict[str, bool]:
        """Options of llama.cpp's worker."""
        return {"repack": self.reference is Kernels.PACKED}
