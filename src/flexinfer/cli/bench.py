"""`flexinfer bench`: budgets times strategies for one model, and a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexinfer.bench.cases import MMAP, SYSTEMS, Case, Grid
from flexinfer.bench.progress import label, minutes, outcome
from flexinfer.cli.bench_slots import measure_slots
from flexinfer.cli.bench_words import counts, grid_of, listed, rates
from flexinfer.cli.models import runnable
from flexinfer.cli.numbers import Count, Fraction
from flexinfer.cli.streams import log, say
from flexinfer.errors import EngineError, RequestError, UnsupportedError
from flexinfer.text import one_line

if TYPE_CHECKING:
    from flexinfer.bench.running import Job
    from flexinfer.bench.store import ModelRuns, Store

_OPENING_SECONDS = 5.0


@click.command(name="bench")
@click.argument("model")
@click.option(
    "--budgets",
    callback=listed,
    default="25%,50%,75%,90%,100%",
    show_default=True,
    help="Sizes, or shares of the weights.",
)
@click.option(
    "--strategy",
    "systems",
    callback=listed,
    default=",".join(SYSTEMS),
    show_default=True,
    help="What is compared; mmap is llama.cpp --no-repack.",
)
@click.option("--drive", "drives", callback=rates, help="Limit of the drive, as native,500MB/s.")
@click.option("--cores", callback=counts, help="Processors, as 1,2; default: all.")
@click.option(
    "--window", "windows", callback=listed, help="Windows for all strategies, as 256M or 3L."
)
@click.option(
    "--slots",
    callback=counts,
    help="Streams decoded together by one server, as 1,8,16; default: none.",
)
@click.option("--rounds", type=Count(1), default=3, show_default=True)
@click.option("--prompt", type=Count(1), default=16, show_default=True, help="Tokens.")
@click.option("-n", "tokens", type=Count(3), default=16, show_default=True, help="Tokens.")
@click.option(
    "--seconds",
    type=Fraction(1),
    default=60.0,
    show_default=True,
    help="A slow run ends after these, with two steps at least.",
)
@click.option(
    "--disturbance",
    type=Fraction(0, 1),
    default=1.0,
    help="Repeat kept runs in which others used a larger share of the processors.",
)
@click.option("--ctx", type=Count(32), default=512, show_default=True)
@click.option(
    "--repack/--no-repack",
    default=None,
    help="Kernels of what is compared and of its bound. Default: what is faster here.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("flexinfer-bench"),
    show_default=True,
    help="Folder of results and reports.",
)
@click.option("--report-only", is_flag=True, help="Measure nothing; write the report again.")
def command(
    model: str,
    budgets: list[str],
    systems: list[str],
    drives: list[int | None],
    cores: list[int],
    windows: list[str],
    slots: list[int],
    rounds: int,
    prompt: int,
    tokens: int,
    seconds: float,
    disturbance: float,
    ctx: int,
    repack: bool | None,
    out: Path,
    report_only: bool,
) -> None:
    """Measure MODEL on this machine; runs that are there already are not repeated."""
    from flexinfer.bench.running import Job
    from flexinfer.bench.store import Store, describe, file_name
    from flexinfer.machine.machine import Machine
    from flexinfer.planning.kernels import Kernels
    from flexinfer.rates.kernels import kernels_for

    catalogue = runnable(model)
    description = describe(model)
    store = Store(out / file_name(description))
    if report_only:
        _report(store)
        return
    store.describe_machine(description)
    kernels = kernels_for(catalogue, Machine.detect(), repack)
    job = Job(catalogue.paths, prompt, tokens, seconds, ctx, max(prompt, 32), kernels)
    grid = grid_of(catalogue, budgets, systems, drives, cores or [description["cores"]], windows)
    grid = replace(grid, stock=kernels is Kernels.PLAIN)
    runs = store.model(Path(job.paths[0]).name, weights=catalogue.nbytes, **job.facts)
    _compare(grid, job, runs, slots, rounds, disturbance, lambda: _report(store))


def _compare(
    grid: Grid,
    job: Job,
    runs: ModelRuns,
    slots: list[int],
    rounds: int,
    disturbance: float,
    report: Callable[[], None],
) -> None:
    """Measure and report, after Ctrl-C what is there by then.

    Raises:
        EngineError: nothing of what was to be compared gave a figure.
    """
    try:
        failed = _measure(_possible(grid, job), job, runs, rounds, disturbance)
        failed += measure_slots(slots, grid, job, runs, rounds)
    except KeyboardInterrupt:
        if len(runs):
            log(f"stopped; {len(runs)} runs are kept, the same command goes on")
            report()
        raise
    report()
    if failed and None not in failed:
        raise EngineError(f"none of {len(failed)} runs gave a figure; the last one: {failed[-1]}")


def _possible(grid: Grid, job: Job) -> tuple[Grid, bool]:
    """The grid without what cannot be limited here, and whether groups can be made."""
    from flexinfer.bench.running import group_trouble

    throttled = any(grid.drives)
    trouble = group_trouble(job.paths[0], throttled=throttled)
    if trouble is None:
        return grid, True
    if throttled:
        raise UnsupportedError(f"the drive cannot be slowed down: {trouble}")
    log(f"{trouble}; without, mmap is left out and budgets are kept by ourselves")
    systems = [each for each in grid.systems if each != MMAP]
    return replace(grid, systems=systems, too_little=None), False


def _measure(
    possible: tuple[Grid, bool], job: Job, runs: ModelRuns, rounds: int, disturbance: float
) -> list[str | None]:
    """Measure what is not there yet; why each run of what is compared failed, or None.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; what was measured before is kept.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from flexinfer.bench.running import run_case

    grid, grouped = possible
    work = [(case, number) for number in range(rounds) for case in grid.round(number)]
    todo = [(case, number) for case, number in work if not runs.has(case, number, disturbance)]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    left = TextColumn("{task.fields[left]}")
    console = Console(stderr=True, highlight=False, markup=False)
    with Progress(*columns, left, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(work), completed=len(work) - len(todo), left="")
        for index, (case, number) in enumerate(todo):
            left_s = _seconds_left([case for case, _ in todo[index:]], runs, job)
            progress.update(task, description=label(case), left=minutes(left_s))
            result = run_case(case, job, grouped=grouped)
            runs.add(case, number, result)
            console.print(f"{label(case)}, round {number + 1}: {outcome(result)}")
            progress.advance(task)
    return [runs.failure(*each) for each in work if each[0].system in grid.systems]


def _seconds_left(cases: list[Case], runs: ModelRuns, job: Job) -> float:
    guess = job.seconds / 2 + _OPENING_SECONDS
    known = [runs.seconds(case) for case in cases]
    return sum(guess if seconds is None else seconds for seconds in known)


def _report(store: Store) -> None:
    """Write Markdown and, where matplotlib is there, HTML beside the results."""
    from flexinfer.bench.rendering import markdown, page

    if not any(model["runs"] for _, model in store.models()):
        raise RequestError(f"{store.path} has no runs to report; call it without --report-only")
    text = markdown(store.document)
    written = [store.path, store.path.with_suffix(".md")]
    written[1].write_text(text, "utf-8", "backslashreplace")
    try:
        picture = page(store.document)
    except UnsupportedError as error:
        log(f"no HTML page: {error}")
    else:
        written.append(store.path.with_suffix(".html"))
        written[2].write_text(picture, "utf-8", "backslashreplace")
    say("\n".join(map(one_line, written)))
