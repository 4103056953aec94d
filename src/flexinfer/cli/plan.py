"""`flexinfer plan`: what would stay in memory, what would stream, and how fast that would be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli.drafts import draft_option
from flexinfer.cli.models import catalogue_of
from flexinfer.cli.numbers import TOKENS, Fraction
from flexinfer.cli.options import engine_options, plan_arguments
from flexinfer.cli.plan_report import PlanReport, advise
from flexinfer.cli.slots import SlotPlans, Slots
from flexinfer.cli.streams import say
from flexinfer.planning.drafted import BELIEF, OFF

if TYPE_CHECKING:
    from flexinfer.foretell import Arguments
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.planning.forecast import Forecast

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
@draft_option
@click.option(
    "--acceptance",
    type=Fraction(0, 1),
    default=BELIEF,
    show_default=True,
    help="The share of drafted tokens that are right, for --draft.",
)
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
    type=TOKENS,
    default=32,
    show_default=True,
    help="Length of the prompt that run would get.",
)
@click.option("-n", "tokens", type=TOKENS, default=128, help="As run has it.")
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
    acceptance: float,
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

    MODEL is a GGUF file, or hf:user/repo[@revision][:quant|:file] on the Hugging Face hub, whose
    header alone is fetched. The other words are those of `run` or `chat`, and mean the same.
    """
    from flexinfer.cli.drafted import forecast_drafted
    from flexinfer.machine.machine import Machine

    machine, catalogue = Machine.detect(), catalogue_of(model)
    speaks_for = speaks_for if slots is None else "serve"
    arguments = _arguments(catalogue, speaks_for, prompt, tokens, **engine)
    forecast, drafts = forecast_drafted(catalogue, arguments, machine, acceptance)
    forecast = _at(forecast, rate)
    together = None if slots is None else _together(catalogue, forecast, slots, arguments)
    report = PlanReport.of(catalogue, forecast, together, drafts)
    report.draw(png)
    if as_json:
        say(json.dumps({"for": speaks_for, **report.document(with_curve)}, indent=2))
        return
    length = f" with a prompt of {prompt} tokens" if speaks_for == "run" else ""
    report.show(f"for {speaks_for}{length}", with_curve)
    if together is None:
        advise(forecast, machine, rate)
    if verbose:
        report.give_reasons()


def _arguments(
    catalogue: Catalogue,
    speaks_for: str,
    prompt: int,
    tokens: int,
    *,
    ctx: int | None,
    ubatch: int | None,
    draft: str,
    **engine: Any,
) -> Arguments:
    """Of the command `speaks_for`, given the same words."""
    from dataclasses import replace

    from flexinfer.cli.sizes import chat_sizes, run_sizes

    if speaks_for == "serve" and draft != OFF:
        raise click.UsageError("--draft is predicted for one sequence; leave --slots out")
    arguments = replace(plan_arguments(engine), draft=draft)
    if speaks_for != "run":
        sizes = chat_sizes(catalogue, arguments, ctx, ubatch)
    else:
        sizes = run_sizes(prompt, tokens, ctx, ubatch)
    return replace(arguments, sizes=sizes)


def _together(
    catalogue: Catalogue, forecast: Forecast, slots: int, arguments: Arguments
) -> SlotPlans:
    from flexinfer.foretell import foretell_rows

    times = foretell_rows(catalogue, forecast, arguments)
    return SlotPlans.of(forecast, times, forecast.request.ctx, slots)


def _at(forecast: Forecast, rate: float | None) -> Forecast:
    """With the smallest budget for a rate, where one was asked for."""
    from dataclasses import replace

    if rate is None:
        return forecast
    budget = forecast.budget_for(rate)
    return replace(forecast, request=replace(forecast.request, budget=budget))
