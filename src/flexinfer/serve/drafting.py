"""How the server's answers are drafted: by whom, how many tokens at a time, in how much memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexinfer.errors import BudgetError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.estimate import PROCESS
from flexinfer.planning.drafted import BELIEF, MOST, OFF, best_draft
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes
from flexinfer.planning.pair import DRAFT_UBATCH, Believed, Pair, plan_pair
from flexinfer.planning.plan import Plan
from flexinfer.serve.arguments import Extra
from flexinfer.serve.comforts import LARGEST_UBATCH
from flexinfer.serve.drafters import (
    Drafter,
    find_drafter,
    flags_with,
    refusal,
    way_of_drafting,
)
from flexinfer.serve.forecasts import forecast_of, rows_of_passes
from flexinfer.serve.reserve import Sizes, Wish
from flexinfer.serve.settings import Settings
from flexinfer.serve.sizing import decide
from flexinfer.sizes import format_size
from flexinfer.speculate.policy import PassTimes, Policy

# Several slots draft as many tokens as would pay if nearly all of them were right.
_HOPE = 0.95


@dataclass(frozen=True)
class Drafting:
    """What was decided.

    Attributes:
        flags: of llama-server, with those that draft.
        policy: says before each pass how many tokens; None: as the flags have it.
        model: the one that drafts, under `plan`, which the server names `path`; it holds `nbytes`.
        read: what is computed of it, where it is the head of the model that answers.
        handed: bytes of hidden states that the model hands to its own head.
        believed: what its share of another budget goes by.
        keeps_rows: a pass over drafted tokens gives the bits of single ones.
        swa_full: the cache of a sliding window holds all tokens, so that they can be taken back.
        steady_ubatch: tokens of a prompt that are computed at a time without drafts.
        late: the other model computes tokens when it drafts next, not after each pass.
    """

    flags: Extra
    policy: Policy | None = None
    model: Catalogue | None = None
    plan: Plan | None = None
    path: str = ""
    nbytes: int = 0
    read: Catalogue | None = None
    handed: int = 0
    believed: Believed | None = None
    keeps_rows: bool = False
    swa_full: bool = False
    steady_ubatch: int = 0
    late: bool = False

    def beside(self, settings: Settings) -> Settings:
        """What the other model is asked for: what the draft holds of a cap on weights is gone."""
        settings, capped = replace(settings, flags=self.flags), settings.weight_memory
        if self.plan is None or capped is None:
            return settings
        return replace(settings, weight_memory=capped - self.plan.held_bytes)

    def by(self, drafter: Drafter, plan: Plan, believed: Believed, ubatch: int) -> Drafting:
        """The same by another model, under `plan`, beside batches of so many tokens."""
        return replace(
            self,
            model=drafter.catalogue,
            plan=plan,
            path=drafter.path,
            nbytes=plan.total - PROCESS,
            read=drafter.head,
            handed=drafter.handed(ubatch),
            believed=believed,
        )

    def among(self, wish: Wish) -> Wish:
        """The wish, with what drafts take."""
        return replace(
            wish,
            drafts=self.flags.drafts,
            draft=self.nbytes,
            handed=self.handed,
            steady_ubatch=self.steady_ubatch,
        )

    def tell(self, sizes: Sizes) -> Sizes:
        """The sizes, with a line about drafts where there are any."""
        if not self.flags.drafts:
            return sizes
        who = "from what was written before" if self.model is None else f"by {self.model.name}"
        who = f"{who}'s own trained head" if self.read else who
        kept = "" if self.keeps_rows else "; the last bits of answers may depend on it"
        full = ", the bits are those of llama-server --swa-full" if self.swa_full else ""
        said = f"up to {self.flags.drafts} tokens drafted at a time {who}{kept}{full}"
        return replace(sizes, said=(*sizes.said, said))


@dataclass(frozen=True)
class _Alone:
    """The model without drafts: what it does, its passes over several rows, its sizes."""

    forecast: Forecast
    times: RowTimes
    sizes: Sizes
    budget: int

    @property
    def sized(self) -> Forecast:
        return self.of(self.forecast)

    def of(self, forecast: Forecast) -> Forecast:
        """What another model does in contexts and batches of these sizes."""
        total = self.sizes.total_ctx
        request = replace(
            forecast.request,
            budget=self.budget - self.sizes.reserve,
            ctx=total,
            min_ctx=total,
            ubatch=self.sizes.ubatch,
            min_ubatch=self.sizes.least_ubatch,
        )
        return replace(forecast, request=request)


def plan_drafting(settings: Settings, catalogue: Catalogue, wish: Wish) -> Drafting:
    """How drafts are made, and what a model that makes them may hold of the budget.

    Args:
        wish: of the server without drafts.

    Raises:
        RequestError: there are two wishes, or the draft's vocabulary is another one.
        UnsupportedError: this model cannot be drafted for, or has no head.
        BudgetError: the models do not fit together.
    """
    way, flags = way_of_drafting(settings, catalogue), settings.flags
    if way == OFF and not flags.drafts:
        return Drafting(flags)
    forecast, times = rows_of_passes(settings, catalogue)
    alone = _Alone(forecast, times, decide(wish, catalogue, forecast), settings.budget)
    drafter = find_drafter(settings, catalogue, way)
    most = _most(settings, alone, drafter)
    drafting = Drafting(flags_with(flags, drafter, most, way))
    token_us = 0
    if drafter is not None:
        believed = Believed(alone.times, BELIEF, most, settings.slots)
        pair = _pair(settings, drafter, alone, believed)
        token_us = round(1e6 / pair.draft.expected_tok_s)
        drafting = drafting.by(drafter, pair.draft, believed, alone.sizes.ubatch)
    if way != OFF:
        passes = PassTimes(round(1e6 / alone.sized.plan().expected_tok_s), times)
        drafting = replace(drafting, policy=Policy(passes, most, token_us))
    keeps = settings.slots == 1 and refusal(settings, catalogue) is None
    swa = keeps and catalogue.parameter("attention.sliding_window") is not None
    steady = alone.sizes.ubatch
    # Of images llama.cpp shows the draft what it can.
    late = drafting.flags.kinds == ("draft-simple",) and settings.mmproj is None
    return replace(drafting, keeps_rows=keeps, swa_full=swa, steady_ubatch=steady, late=late)


def _most(settings: Settings, alone: _Alone, drafter: Drafter | None) -> int:
    """Tokens that each slot may draft: all of them fit one pass, and their logits the budget."""
    most = MOST if drafter is None else drafter.most
    if settings.slots == 1:
        return most
    most = max(min(most, LARGEST_UBATCH // settings.slots - 1), 1)
    plan = alone.sized.plan()
    best = best_draft(plan, alone.times, _HOPE, most, sequences=settings.slots)
    return max(best.drafted, 1)


def _pair(settings: Settings, drafter: Drafter, alone: _Alone, believed: Believed) -> Pair:
    own = replace(settings, window=None, strategy="flex", split=None, mirrors=())
    beside = alone.of(forecast_of(drafter.read, own, drafts=0))
    if drafter.head is None:
        batch = min(alone.sizes.ubatch, DRAFT_UBATCH)
        request = replace(beside.request, ubatch=batch, min_ubatch=batch)
        beside = replace(beside, request=request)
    try:
        return plan_pair(alone.sized, beside, believed, PROCESS)
    except BudgetError as error:
        raise BudgetError(
            f"{error}, and {format_size(alone.sizes.reserve)} more for the server"
        ) from error
