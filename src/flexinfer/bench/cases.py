"""What is measured: cases, and the order in which rounds go through them. Plain data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.strategies import STRATEGIES
from flexinfer.sizes import parse_size

# llama.cpp --no-repack with the model mapped into memory.
MMAP = "mmap"
# The two halves of the bound: llama.cpp with our kernels and all weights in memory; our reader
# alone.
COMPUTE, DRIVE = "compute", "drive"
# llama.cpp as it comes, which packs weights: all in memory, or tried once in less.
STOCK = "stock"
REFERENCES = (DRIVE, COMPUTE, STOCK)
SYSTEMS = (MMAP, *reversed([*STRATEGIES]))

_LAYERS = re.compile(r"([0-9]{1,2})L", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One combination that is measured.

    Attributes:
        system: a strategy, or one of `MMAP`, `COMPUTE`, `DRIVE`, `STOCK`.
        budget: bytes of the process, and of its group; 0 for what has all weights in memory.
        drive: bytes/s the drive is held to; None: as it is.
        window: bytes of the window, when it was set by hand.
    """

    system: str
    budget: int
    drive: int | None
    cores: int
    window: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Case:
        return cls(**{field.name: document[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Grid:
    """Everything that one call of the benchmark compares.

    Attributes:
        stock: `STOCK` is measured beside `COMPUTE`, which is another set of kernels.
        too_little: bytes, less than the weights, in which `STOCK` is tried once.
    """

    budgets: Sequence[int]
    systems: Sequence[str]
    drives: Sequence[int | None]
    cores: Sequence[int]
    windows: Sequence[int | None]
    stock: bool = False
    too_little: int | None = None

    def bound(self) -> Iterator[Case]:
        """The halves of the bound; computing does not depend on the drive."""
        for cores in self.cores:
            yield Case(COMPUTE, 0, None, cores)
            if self.stock:
                yield Case(STOCK, 0, None, cores)
            for drive in self.drives:
                yield Case(DRIVE, 0, drive, cores)

    def compared(self, number: int) -> Iterator[Case]:
        """All other cases in the order of one round: systems in turn, each second round backwards.

        A drift of the machine then meets all systems of a budget alike.
        """
        systems = list(self.systems)
        if number % 2:
            systems.reverse()
        for drive in self.drives:
            for cores in self.cores:
                for budget in self.budgets:
                    for system in systems:
                        for window in self.windows if system != MMAP else (None,):
                            yield Case(system, budget, drive, cores, window)

    def round(self, number: int) -> list[Case]:
        """The cases of one round, the bound first."""
        tried = [] if self.too_little is None or number else [self._tried(self.too_little)]
        return [*self.bound(), *self.compared(number), *tried]

    def _tried(self, memory: int) -> Case:
        return Case(STOCK, memory, self.drives[0], self.cores[0])


def parse_rate(text: str) -> int:
    """Bytes/s of a drive, written as ``500MB/s``.

    Raises:
        SizeError: the text is no rate.
    """
    return parse_size(text.strip().removesuffix("/s"))


def parse_window(text: str, catalogue: Catalogue) -> int:
    """Bytes of a window: a size, or layers of this model as ``3L``.

    Raises:
        SizeError: the text is neither.
        RequestError: the model has no layers to count in.
    """
    match = _LAYERS.fullmatch(text.strip())
    if match is None:
        return parse_size(text)
    layers: dict[str, int] = {}
    for tensor in catalogue.tensors:
        if tensor.name.startswith("blk."):
            number = tensor.name.split(".")[1]
            layers[number] = layers.get(number, 0) + tensor.nbytes
    if not layers or not int(match[1]):
        raise RequestError(f"a window of {text} means nothing for {catalogue.name}; give a size")
    return int(match[1]) * max(layers.values())
