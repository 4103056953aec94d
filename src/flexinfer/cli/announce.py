"""The first lines of `run` and `chat`: the mode, and what the user should know about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flexinfer.cli.streams import log, log_line
from flexinfer.sizes import format_size
from flexinfer.text import one_line

if TYPE_CHECKING:
    from flexinfer.llama import Llama
    from flexinfer.planning.plan import Plan


def first_line(plan: Plan) -> str:
    """What will happen, whose bits come of it, and what is read from where."""
    return "; ".join(filter(None, (plan.mode, plan.computed, plan.rates.reading)))


def first_lines(plan: Plan) -> Iterator[str]:
    """What will happen, and which workers that were asked for have no part in it."""
    yield first_line(plan)
    if plan.request.split is not None:
        yield from plan.request.split.notes


def announce(llm: Llama, memory: int | str | None, seed: int, verbose: bool) -> None:
    """Say how `llm` runs, on standard error; `memory` is the budget that was asked for."""
    from flexinfer.machine.machine import Machine

    budget = llm.plan.request.budget
    if llm.plan.request.weight_memory is not None:
        log("--weight-memory: the memory of the process is not limited")
    elif isinstance(memory, int) and budget < memory:
        log(f"only {format_size(budget)} of memory are available: using that")
    if not llm.pinned and Machine.detect().swaps:
        log(
            "locked weights may be swapped out, since the limit on locked memory is too small: "
            "see flexinfer doctor",
        )
    if llm.plan.ctx < llm.plan.request.ctx:
        log(
            f"the budget has no room for a context of {llm.plan.request.ctx} tokens: it is "
            f"{llm.plan.ctx}, give more --memory for more",
        )
    if not verbose:
        for line in first_lines(llm.plan):
            log_line(line)
    else:
        # The reasons have what else there is to know.
        log_line(first_line(llm.plan))
        log(f"  seed {seed}")
        for reason in llm.plan.reasons:
            log(f"  {one_line(reason)}")
