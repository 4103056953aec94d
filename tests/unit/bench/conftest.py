"""What tests of results share: one entry of a document, and a whole one."""

from __future__ import annotations

from typing import Any

import pytest
from support.bench_runs import MIB, halves, run

from flexinfer.bench.cases import MMAP


@pytest.fixture
def entry() -> dict[str, Any]:
    """Two rounds of three systems at one budget: 1000 MiB of weights in 500 MiB."""
    budget = 500 * MIB
    runs = [*halves(0, 0.2, 1000.0 * MIB), *halves(1, 0.2, 500.0 * MIB)]
    for number, slower in ((0, 1.0), (1, 2.0)):
        runs += [
            run(MMAP, budget, 6.0, number),
            run("sync", budget, 2.0 * slower, number),
            run("flex", budget, 0.75 * slower, number),
        ]
    return {"weights": 1000 * MIB, "prompt": 16, "tokens": 3, "ctx": 512, "runs": runs}


@pytest.fixture
def document(entry: dict[str, Any]) -> dict[str, Any]:
    machine = {
        "processor": "A & B <fast>",
        "cores": 2,
        "memory_total": 24 << 30,
        "swap_total": 0,
        "kernel": "6.1",
        "huge_pages": "madvise",
        "drive": {"kind": "vda", "readahead_kib": 128, "file_system": "ext4"},
        "flexinfer": "0.1",
        "python": "3.11",
    }
    entry["runs"].append({**run("layers", 500 * MIB, 1.0), "failed": "no memory"})
    return {"format": 1, "machine": machine, "models": {"m.gguf": entry}}
