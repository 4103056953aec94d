"""What drive and processor do, as plans take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexinfer.planning.kernels import Kernels


@dataclass(frozen=True)
class DriveShare:
    """One of several drives with the model: the path of its copy, and its bytes/s."""

    path: str
    rate: float


@dataclass(frozen=True)
class Rates:
    """What drive and processor do.

    Attributes:
        drive: bytes/s, of all drives together.
        compute_s: seconds a token with all weights in memory.
        source: "probe", "passes", "given", or "assumed" for small models.
        kernels: the set that these are of.
        packing: bytes/s at which what streams is packed; 0: nothing is packed.
        asking: seconds a byte that reading it takes from computing; 0: others than those who
            compute do it.
        drives: where several hold the model, each with its share.
    """

    drive: float
    compute_s: float
    source: str
    kernels: Kernels = Kernels.PLAIN
    packing: float = 0.0
    asking: float = 0.0
    drives: tuple[DriveShare, ...] = ()

    @property
    def reading(self) -> str:
        """From which drives at which rate, where there are several; else empty."""
        rates = [f"{share.path} at {share.rate / 1e9:.2f} GB/s" for share in self.drives]
        return "reads " + " and ".join(rates) if rates else ""

    def packing_s(self, nbytes: float) -> float:
        """Seconds in which so much of what streams is packed."""
        return nbytes / self.packing if self.packing else 0.0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Rates:
        """The rates in a document that `dataclasses.asdict` made."""
        kernels = Kernels(document.get("kernels", Kernels.PLAIN))
        drives = tuple(DriveShare(**share) for share in document.get("drives", ()))
        return cls(**{**document, "kernels": kernels, "drives": drives})
