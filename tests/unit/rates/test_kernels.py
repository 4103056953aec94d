"""Which kernels are faster for a prompt and an answer; plain where it makes no difference."""

from __future__ import annotations

import pytest

from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.by_type import packing_rate
from flexinfer.rates.kernels import faster
from flexinfer.rates.type_rates import TypeRates

KINDS = {kind.name: kind for kind in QUANT_TYPES.values()}
Q4_0, Q6_K = KINDS["q4_0"], KINDS["q6_K"]
PLAIN = {"q4_0": TypeRates(20e9, 50e9), "q6_K": TypeRates(40e9, 60e9)}


@pytest.mark.parametrize(
    ("row", "rows", "chosen"),
    [
        (1.0, 1.0, Kernels.PLAIN),  # the same
        (1.5, 1.5, Kernels.PACKED),
        (1.04, 1.04, Kernels.PLAIN),  # a tie
        (1.3, 0.6, Kernels.PLAIN),  # faster answers, slower prompts
        (1.0, 1.4, Kernels.PACKED),
    ],
)
def test_the_lower_time_wins(row: float, rows: float, chosen: Kernels) -> None:
    packed = {**PLAIN, "q4_0": TypeRates(20e9 * row, 50e9 * rows, 20e9)}
    assert faster({Q4_0: 1 << 30}, PLAIN, packed) is chosen


def test_types_count_by_their_work() -> None:
    packed = {**PLAIN, "q4_0": TypeRates(40e9, 100e9, 20e9)}
    assert faster({Q4_0: 1 << 30, Q6_K: 1 << 20}, PLAIN, packed) is Kernels.PACKED
    assert faster({Q4_0: 1 << 20, Q6_K: 1 << 30}, PLAIN, packed) is Kernels.PLAIN


def test_packing_is_shared_by_all_processors() -> None:
    rates = {"q4_0": TypeRates(1.0, 1.0, 10e9), "q6_K": TypeRates(1.0, 1.0)}
    assert packing_rate({Q4_0: 1 << 30}, rates, 2) == 20e9
    # Half of the bytes are not packed: the model goes through at twice the rate.
    assert packing_rate({Q4_0: 1 << 30, Q6_K: 1 << 30}, rates, 2) == 40e9
    assert packing_rate({Q6_K: 1 << 30}, rates, 2) == 0.0
