"""The two sides of a benchmark: the kernels of ours, and of the llama.cpp beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.machine.machine import Machine
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.kernels import kernels_for

_REFERENCES = {"stock": Kernels.PACKED, "no-repack": Kernels.PLAIN}
_SAME = "same"


@dataclass(frozen=True)
class Sides:
    """Kernels of ours, and those of the llama.cpp that it is held against."""

    ours: Kernels
    reference: Kernels

    @classmethod
    def of(cls, model: str, repack: bool | None, reference: str = _SAME) -> Sides:
        """`repack` is decided once where it is None; `reference` as on the command line."""
        ours = kernels_for(read_catalogue(model), Machine.detect(), repack)
        return cls(ours, _REFERENCES.get(reference, ours))

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


def sides_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a benchmark of `model`; the command gets `Sides` as `sides`."""

    @wraps(command)
    def decided(*, repack: bool | None, reference: str, **options: Any) -> Any:
        return command(sides=Sides.of(options["model"], repack, reference), **options)

    choice = click.Choice([_SAME, *_REFERENCES])
    reference = click.option(
        "--reference",
        type=choice,
        default=_SAME,
        show_default=True,
        help="llama.cpp beside ours: with the same kernels, as it comes, or with --no-repack.",
    )
    repack = click.option(
        "--repack/--no-repack", default=None, help="Our kernels. Default: what is faster here."
    )
    return repack(reference(decided))
