"""What reads of experts can hide behind."""

from __future__ import annotations

import pytest

from flexinfer.bench.expert_turns import bounds


def test_reads_of_experts_hide_behind_experts_alone() -> None:
    figures = {"missed_bytes": 4e8, "drive": 1e9, "expert_share": 0.75, "token_s": 1.0}
    # A quarter of a token's 0.2 s is dense; 0.4 s of reads are longer than 0.15 s of experts.
    assert bounds(figures, 0.2) == pytest.approx({"bound": 0.45, "least": 0.4, "ratio": 0.45})
    figures |= {"missed_bytes": 1e7}
    assert bounds(figures, 0.2) == pytest.approx({"bound": 0.2, "least": 0.2, "ratio": 0.2})
