"""What `flexinfer plan` says: a picture with its figures, one JSON document, advice."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexinfer.cli.streams import say
from flexinfer.sizes import format_figure, format_size
from flexinfer.text import one_line

if TYPE_CHECKING:
    from flexinfer.cli.drafted import DraftPlan
    from flexinfer.cli.slots import SlotPlans
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.machine.machine import Machine
    from flexinfer.planning.forecast import Forecast
    from flexinfer.planning.plan import Plan


@dataclass(frozen=True)
class PlanReport:
    """What is said of one model; `together` is of several sequences, `drafts` of drafts, if asked
    for.
    """

    catalogue: Catalogue
    forecast: Forecast
    plan: Plan
    together: SlotPlans | None
    drafts: DraftPlan | None

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        forecast: Forecast,
        together: SlotPlans | None,
        drafts: DraftPlan | None,
    ) -> PlanReport:
        """With the plan that is asked about."""
        plan = forecast.plan() if together is None else together.chosen.plan
        return cls(catalogue, forecast, plan, together, drafts)

    def draw(self, path: Path | None) -> None:
        """Into a PNG, if one is wanted."""
        if path is None:
            return
        from flexinfer.show.png import save_png

        save_png(self.plan, path, self.catalogue.name)

    def document(self, with_curve: bool) -> dict[str, Any]:
        """As JSON has it; sizes in bytes."""
        catalogue, forecast, plan = self.catalogue, self.forecast, self.plan
        found: dict[str, Any] = {
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
            "drives": [asdict(share) for share in plan.rates.drives],
            "plan": plan.to_json(),
        }
        if with_curve:
            found["curve"] = [
                {"budget": budget, "tok_s": rate} for budget, rate in forecast.curve()
            ]
        for more in (self.together, self.drafts):
            found |= {} if more is None else more.document()
        return found

    def show(self, what_for: str, with_curve: bool) -> None:
        """The picture, the memory bar, and the figures that it comes to."""
        from rich.console import Console

        from flexinfer.show import terminal
        from flexinfer.show.places import places

        plan, name, kind = self.plan, self.catalogue.name, self.catalogue.architecture
        width = max(shutil.get_terminal_size((100, 24)).columns, 60)
        console = Console(width=width, highlight=False, markup=False)
        console.print(f"{one_line(name)}: {one_line(kind)}, {_size(self.catalogue)}")
        console.print(
            f"{what_for}: context {plan.ctx}, ubatch {plan.ubatch}, "
            f"strategy {plan.request.strategy}\n"
        )
        console.print(terminal.picture(plan, min(width, 120)))
        console.print()
        console.print(terminal.memory_bar(plan, min(width - 2, 76)))
        console.print()
        if plan.request.split is not None:
            console.print(places(plan, plan.request.split))
            console.print()
        console.print(plan.mode)
        console.print(plan.computed)
        if plan.rates.reading:
            console.print(one_line(plan.rates.reading))
        console.print(_formula(plan))
        if with_curve:
            console.print()
            console.print(terminal.curve(self.forecast.curve(), plan.request.budget))
        if self.together is not None:
            _show_slots(self.together)
        if self.drafts is not None:
            say(one_line(str(self.drafts)))

    def give_reasons(self) -> None:
        for reason in self.plan.reasons:
            say(f"  {one_line(reason)}")


def advise(forecast: Forecast, machine: Machine, rate: float | None) -> None:
    """The budget for the rate that was asked for, or one that would pay."""
    budget = forecast.request.budget
    if rate is not None:
        say(f"{format_figure(rate)} tokens/s need --memory {_option(budget)}")
        return
    if budget > machine.ceiling and forecast.request.weight_memory is None:
        say(
            f"on this machine run and chat use {format_size(machine.ceiling)}: no more is available"
        )
    advice = forecast.advice(machine.default_budget)
    if advice is not None:
        say(f"--memory {_option(advice[0])} would give about {format_figure(advice[1])} tokens/s")


def _option(nbytes: int) -> str:
    return f"{-(-nbytes // (1 << 20))}MiB"


def _size(catalogue: Catalogue) -> str:
    files = len(catalogue.paths)
    shards = f" in {files} files" if files > 1 else ""
    return f"{len(catalogue.tensors)} tensors, {format_size(catalogue.nbytes)}{shards}"


def _formula(plan: Plan) -> str:
    rates = plan.rates
    streamed, drive = format_size(plan.streamed_bytes), f"{rates.drive / 1e9:.2f} GB/s"
    computing = f"{rates.compute_s:.3f} s computing"
    reading = f"{streamed} / {drive} = {plan.reading_s:.3f} s reading"
    if plan.lookahead:
        short, long = "max(C, S/B)", f"max({computing}, {reading})"
    else:
        short, long = "(C + S/B)", f"({computing} + {reading})"
    if plan.away_s:
        reading_ahead = " beyond what is read meanwhile" if plan.streamed_bytes else ""
        short, long = f"(E + {short})", f"({plan.away_s:.3f} s elsewhere + {long}{reading_ahead})"
    formula = f"1 / {short} = 1 / {long}"
    return f"{formula} = {format_figure(plan.bound_tok_s)} tokens/s at most (rates: {rates.source})"


def _show_slots(together: SlotPlans) -> None:
    from rich.console import Console

    from flexinfer.planning.many import slots_of
    from flexinfer.show import terminal

    chosen = together.chosen
    console = Console(highlight=False)
    console.print(
        f"{slots_of(chosen.sequences, together.ctx)}: "
        f"about {format_figure(chosen.together_tok_s)} tokens/s together, "
        f"{format_figure(chosen.each_tok_s)} each\n"
    )
    console.print(terminal.slots(together.points, chosen.sequences))
