"""The part of `flexinfer bench` that has streams decoded together by one server."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from flexinfer.cli.streams import log
from flexinfer.errors import EngineError
from flexinfer.sizes import format_figure, format_size
from flexinfer.text import one_line

if TYPE_CHECKING:
    from flexinfer.bench.cases import Grid
    from flexinfer.bench.running import Job
    from flexinfer.bench.store import ModelRuns

_KV = "f16"
# Passes in which the window finds its size, and those that are counted.
_SKIPPED, _COUNTED = 8, 12


def measure_slots(
    slots: Sequence[int], grid: Grid, job: Job, runs: ModelRuns, rounds: int
) -> list[str | None]:
    """Measure each number of slots in each budget, at each rate of the drive; keep what is there.

    Ours, and llama.cpp's server with mmap in the same group. Returns why each failed, or None.
    """
    from flexinfer.bench.sides import Sides
    from flexinfer.bench.together import Setup, measure, measure_plain_server

    sides, failed = Sides(job.kernels, job.kernels), list[str | None]()
    for number, cores, drive, budget in product(
        range(rounds), grid.cores, grid.drives, grid.budgets
    ):
        setup = Setup(
            job.paths, budget, drive, cores, job.ctx, sides, _SKIPPED, _COUNTED, job.seconds
        )
        named = {"budget": budget, "drive": drive, "cores": cores, "kv": _KV, "round": number}
        todo = [each for each in slots if not runs.has_together(named | {"slots": each})]
        failed += [None] * (len(slots) - len(todo))
        if not todo:
            continue
        with setup.plain(_KV) as plain:
            for each in todo:
                try:
                    found = measure(setup, plain, each, _KV)
                except EngineError as error:
                    found = {"failed": str(error)}
                else:
                    beside = measure_plain_server(setup, each, _KV, found["ubatch"])
                    found |= {f"plain_{name}": value for name, value in beside.items()}
                runs.add_together(named | {"slots": each}, found)
                failed.append(found.get("failed"))
                log(f"{each} slots in {format_size(budget)}, round {number + 1}: {_said(found)}")
    return failed


def _said(found: dict[str, object]) -> str:
    if "failed" in found:
        return f"failed: {one_line(str(found['failed']))}"
    rate, bound = (format_figure(float(str(found[key]))) for key in ("tok_s", "bound_tok_s"))
    return f"{rate} tokens/s together, at most {bound}"
