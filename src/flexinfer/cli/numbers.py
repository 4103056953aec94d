"""Numbers of options: in plain digits and within bounds, counts as well as fractions."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import click

# LLAMA_DEFAULT_SEED of llama.h: llama.cpp draws one.
DRAWN = 2**32 - 1

_DIGITS = re.compile(r"[+-]?[0-9]{1,40}")


class Count(click.IntRange):
    """An integer within bounds, without what Python reads as one beside digits."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and _DIGITS.fullmatch(value) is None:
            self.fail(f"{value!r} is no whole number; write it in digits", param, ctx)
        return int(super().convert(value, param, ctx))


class Fraction(click.FloatRange):
    """A number within bounds, which the one that is none never is."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number; write it as 0.8", param, ctx)
        return number


class Seed(click.ParamType[int]):
    """A seed of 32 bits; -1, and what llama.cpp takes for none, is a new one."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        seed = Count(-1, DRAWN).convert(value, param, ctx)
        return int.from_bytes(os.urandom(4), "little") % DRAWN if seed in (-1, DRAWN) else seed


# The most that ggml's backend of the processor starts (``GGML_MAX_N_THREADS``).
THREADS = Count(1, 512)
# llama.cpp counts them in 32 bits.
TOKENS = Count(1, 2**31 - 1)
