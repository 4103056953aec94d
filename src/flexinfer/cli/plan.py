"""`flexinfer plan`: what would stay in memory, what would stream, and how fast that would be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.models import catalogue_of
from flexinfer.cli.options import engine_options, plan_arguments
from flexinfer.cli.slots import SlotPlans, Slots
from flexinfer.cli.streams import say
from flexinfer.sizes import format_size
from flexinfer.text import one_line

if TYPE_CHECKING:
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.machine.machine import Machine
    from flexinfer.planning.forecast import Forecast
    from flexinfer.planning.plan import Plan

_RATE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(?:tok(?:ens?)?/s)?\s*")


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Tokens a second, such as 3tok/s."""
    if value is None:
        return None
    match = _RATE.fullmatch(value)
    if match is None or float(match[1]) <= 0:
        raise click.BadParameter(f"{value!r} is not a rate; write it as 3tok/s", ctx, param)
    return float(match[1])


@click.command(name="plan")
@click.argument("model")
@engine_options
@click.option(
    "--as",
    "speaks_for",
    type=click.Choice(["run", "chat"]),
    default="run",
    show_default=True,
    help="The command whose context and batch are planned.",
)
@click.option(
    "--prompt-tokens",
    "prompt",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Length of the prompt that run would get.",
)
@click.option("-n", "tokens", type=click.IntRange(1), default=128, help="As run has it.")
@click.option(
    "--slots",
    type=Slots(),
    help="Plan for so many sequences together, of --ctx tokens each, as serve has them; auto: the "
    "number with the highest rate.",
)
@click.option("--for", "rate", callback=_rate, help="The smallest budget for a rate, as 3tok/s.")
@click.option("--curve", "with_curve", is_flag=True, help="Predicted rates of other budgets.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw into a file.")
@click.option("-v", "--verbose", is_flag=True, help="The reasons for each decision.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a picture.")
def command(
    model: str,
    speaks_for: str,
    prompt: int,
    tokens: int,
    slots: int | None,
    rate: float | None,
    with_curve: bool,
    png: Path | None,
    verbose: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Show what a memory budget would do for MODEL, from its header alone.

    MODEL is a GGUF file, or hf:user/repo[@revision][:quant|:file] on the Hugging Face hub, of
    which only the header is fetched. The other words are those of `run` or `chat`, and mean the
    same.
    """
    from flexinfer.machine.machine import Machine

    machine = Machine.detect()
    catalogue = catalogue_of(model)
    if slots is not None:
        speaks_for = "serve"
    forecast = _forecast(catalogue, machine, speaks_for, prompt, tokens, **engine)
    if rate is not None:
        forecast = _at(forecast, forecast.budget_for(rate))
    together = None if slots is None else _together(catalogue, forecast, slots, engine["threads"])
    plan = forecast.plan() if together is None else together.chosen.plan
    if png is not None:
        from flexinfer.show.png import save_png

        save_png(plan, png, catalogue.name)
    if as_json:
        document = {"for": speaks_for, **_document(catalogue, forecast, plan, with_curve)}
        if together is not None:
            document |= together.document()
        say(json.dumps(document, indent=2))
        return
    length = f" with a prompt of {prompt} tokens" if speaks_for == "run" else ""
    _show(catalogue, forecast, plan, f"for {speaks_for}{length}", with_curve)
    if together is None:
        _advise(forecast, machine, rate)
    else:
        _show_slots(together)
    if verbose:
        for reason in plan.reasons:
            say(f"  {one_line(reason)}")


def _forecast(
    catalogue: Catalogue,
    machine: Machine,
    speaks_for: str,
    prompt: int,
    tokens: int,
    *,
    ctx: int | None,
    ubatch: int | None,
    **engine: Any,
) -> Forecast:
    """Of the command `speaks_for`, given the same words."""
    from dataclasses import replace

    from flexinfer.foretell import chat_sizes, forecast, run_sizes

    arguments = plan_arguments(engine)
    if speaks_for != "run":
        sizes = chat_sizes(catalogue, arguments, ctx, ubatch)
    else:
        sizes = run_sizes(prompt, tokens, ctx, ubatch)
    return forecast(catalogue, replace(arguments, sizes=sizes), machine)


def _together(
    catalogue: Catalogue, forecast: Forecast, slots: int, threads: int | None
) -> SlotPlans:
    from flexinfer.foretell import foretell_rows

    times = foretell_rows(catalogue, forecast, threads)
    return SlotPlans.of(forecast, times, forecast.request.ctx, slots)


def _show_slots(together: SlotPlans) -> None:
    from rich.console import Console

    from flexinfer.show import terminal

    chosen = together.chosen
    console = Console(highlight=False)
    console.print(
        f"{chosen.sequences} slots of {together.ctx} tokens: about {chosen.together_tok_s:.3g} "
        f"tokens/s together, {chosen.each_tok_s:.3g} each\n"
    )
    console.print(terminal.slots(together.points, chosen.sequences))


def _at(forecast: Forecast, budget: int) -> Forecast:
    from dataclasses import replace

    return replace(forecast, request=replace(forecast.request, budget=budget))


def _document(
    catalogue: Catalogue, forecast: Forecast, plan: Plan, with_curve: bool
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": catalogue.name,
        "architecture": catalogue.architecture,
        "files": list(catalogue.paths),
        "ctx": plan.ctx,
        "ubatch": plan.ubatch,
        "kernels": plan.rates.kernels.value,
        "reference": plan.rates.kernels.reference,
        "budget": plan.request.budget,
        "smallest_budget": forecast.smallest,
        "weight_bytes": plan.weight_bytes,
        "locked_bytes": plan.locked_bytes,
        "streamed_bytes": plan.streamed_bytes,
        "bound_tok_s": plan.bound_tok_s,
        "expected_tok_s": plan.expected_tok_s,
        "plan": plan.to_json(),
    }
    if with_curve:
        document["curve"] = [{"budget": budget, "tok_s": rate} for budget, rate in forecast.curve()]
    return document


def _show(
    catalogue: Catalogue, forecast: Forecast, plan: Plan, what_for: str, with_curve: bool
) -> None:
    from rich.console import Console

    from flexinfer.show import terminal

    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    console = Console(width=width, highlight=False, markup=False)
    console.print(
        f"{one_line(catalogue.name)}: {one_line(catalogue.architecture)}, {_size(catalogue)}"
    )
    console.print(
        f"{what_for}: context {plan.ctx}, ubatch {plan.ubatch}, strategy {plan.request.strategy}\n"
    )
    console.print(terminal.picture(plan, min(width, 120)))
    console.print()
    console.print(terminal.memory_bar(plan, min(width - 2, 76)))
    console.print()
    console.print(plan.mode)
    console.print(plan.computed)
    console.print(_formula(plan))
    if with_curve:
        console.print()
        console.print(terminal.curve(forecast.curve(), plan.request.budget))


def _size(catalogue: Catalogue) -> str:
    files = len(catalogue.paths)
    shards = f" in {files} files" if files > 1 else ""
    return f"{len(catalogue.tensors)} tensors, {format_size(catalogue.nbytes)}{shards}"


def _formula(plan: Plan) -> str:
    rates = plan.rates
    streamed, drive = format_size(plan.streamed_bytes), f"{rates.drive / 1e9:.2f} GB/s"
    computing = f"{rates.compute_s:.3f} s computing"
    reading = f"{streamed} / {drive} = {plan.streamed_bytes / rates.drive:.3f} s reading"
    if plan.lookahead:
        formula = f"1 / max(C, S/B) = 1 / max({computing}, {reading})"
    else:
        formula = f"1 / (C + S/B) = 1 / ({computing} + {reading})"
    return f"{formula} = {plan.bound_tok_s:.3g} tokens/s at most (rates: {rates.source})"


def _advise(forecast: Forecast, machine: Machine, rate: float | None) -> None:
    budget = forecast.request.budget
    if rate is not None:
        say(f"{rate:.3g} tokens/s need --memory {_option(budget)}")
        return
    if budget > machine.ceiling and forecast.request.weight_memory is None:
        say(
            f"on this machine run and chat use {format_size(machine.ceiling)}: no more is available"
        )
    advice = forecast.advice(machine.default_budget)
    if advice is not None:
        say(f"--memory {_option(advice[0])} would give about {advice[1]:.2g} tokens/s")


def _option(nbytes: int) -> str:
    return f"{-(-nbytes // (1 << 20))}MiB"
