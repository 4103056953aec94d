"""Counts and seconds that add up field by field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import add, sub
from typing import TypeVar

_S = TypeVar("_S", bound="Sums")


@dataclass(frozen=True)
class Sums:
    """Numbers of which two are added, and one is taken from a later one, each by itself."""

    def __add__(self: _S, other: _S) -> _S:
        return self._each(add, other)

    def __sub__(self: _S, other: _S) -> _S:
        return self._each(sub, other)

    def _each(self: _S, operation: Callable[[float, float], float], other: _S) -> _S:
        names = [field.name for field in fields(self)]
        return type(self)(*(operation(getattr(self, n), getattr(other, n)) for n in names))
