"""The first lines of `run` and `chat`: the mode, and what the user should know about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexinfer.sizes import format_size

if TYPE_CHECKING:
    from flexinfer.llama import Llama


def announce(llm: Llama, memory: int | str | None, verbose: bool) -> None:
    """Say how `llm` runs, on standard error; `memory` is the budget that was asked for."""
    from flexinfer.machine.machine import Machine

    budget = llm.plan.request.budget
    if llm.plan.request.weight_memory is not None:
        click.echo("--weight-memory: the memory of the process is not limited", err=True)
    elif isinstance(memory, int) and budget < memory:
        click.echo(f"only {format_size(budget)} of memory are available: using that", err=True)
    if not llm.pinned and Machine.detect().swaps:
        click.echo(
            "locked weights may be swapped out, since the limit on locked memory is too small: "
            "see flexinfer doctor",
            err=True,
        )
    click.echo(f"{llm.plan.mode}; {llm.plan.computed}", err=True)
    if verbose:
        for reason in llm.plan.reasons:
            click.echo(f"  {reason}", err=True)
