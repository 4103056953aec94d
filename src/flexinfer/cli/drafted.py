"""What drafts come to before a model is opened: a prediction for a share of right tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexinfer.planning.drafted import NAMES, OFF, Drafted
from flexinfer.sizes import format_figure, format_size

if TYPE_CHECKING:
    from flexinfer.foretell import Arguments
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.machine.machine import Machine
    from flexinfer.planning.forecast import Forecast
    from flexinfer.planning.plan import Plan


@dataclass(frozen=True)
class DraftPlan:
    """`draft` proposes under `plan`, where it is a model; together they reach `drafted`."""

    draft: str
    drafted: Drafted
    plan: Plan | None = None

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = {
            "by": self.draft,
            "acceptance": self.drafted.acceptance,
            "drafted": self.drafted.drafted,
            "tokens_per_pass": self.drafted.tokens_a_pass,
            "expected_tok_s": self.drafted.tok_s,
        }
        if self.plan is not None:
            found["draft_model"] = {
                "bytes": self.plan.total,
                "locked_bytes": self.plan.locked_bytes,
                "streamed_bytes": self.plan.streamed_bytes,
                "ctx": self.plan.ctx,
            }
        return {"drafts": found}

    def __str__(self) -> str:
        share = f"where {self.drafted.acceptance:.0%} of drafted tokens are right"
        rate = f"about {format_figure(self.drafted.tok_s)} tokens/s"
        if not self.drafted.drafted:
            return f"drafts do not pay {share}: {rate} without"
        count = f"{self.drafted.drafted} tokens drafted a pass"
        if self.plan is not None:
            count += f" by a model of which {format_size(self.plan.locked_bytes)} are locked"
            if self.plan.streamed_bytes:
                count += f" and {format_size(self.plan.streamed_bytes)} stream"
        return f"{count}: {rate} {share}"


def forecast_drafted(
    catalogue: Catalogue, arguments: Arguments, machine: Machine, acceptance: float
) -> tuple[Forecast, DraftPlan | None]:
    """What the model does, beside a draft model where one was asked for, and what drafts bring.

    Raises:
        FlexInferError: as opening both would.
    """
    from flexinfer.foretell import forecast, foretell_rows
    from flexinfer.gguf.catalogue import read_catalogue
    from flexinfer.planned import pair
    from flexinfer.planning.drafted import best_draft

    if arguments.draft not in NAMES:
        both = pair(catalogue, read_catalogue(arguments.draft), arguments, machine, acceptance)
        return both.beside, DraftPlan(arguments.draft, both.drafted, both.draft)
    alone = forecast(catalogue, arguments, machine)
    if arguments.draft == OFF:
        return alone, None
    times = foretell_rows(catalogue, alone, arguments)
    return alone, DraftPlan(arguments.draft, best_draft(alone.plan(), times, acceptance))
