"""How the server's answers are drafted: by whom, how many tokens at a time, in how much memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexinfer.errors import BudgetError, RequestError, UnsupportedError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.estimate import PROCESS
from flexinfer.gguf.same_vocabulary import check_same_vocabulary
from flexinfer.planning.drafted import AUTO, BELIEF, MOST, NGRAM, OFF, best_draft
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes
from flexinfer.planning.pair import Believed, Pair, plan_pair
from flexinfer.planning.plan import Plan
from flexinfer.serve.arguments import Extra, read_extra
from flexinfer.serve.forecasts import check_served, forecast_of, rows_of_passes
from flexinfer.serve.reserve import Sizes, Wish
from flexinfer.serve.settings import Settings
from flexinfer.serve.sizing import LARGEST_UBATCH, decide
from flexinfer.sizes import format_size
from flexinfer.speculate.choice import check_draftable
from flexinfer.speculate.policy import PassTimes, Policy

MTP = "mtp"
# Tokens that must be the same before what followed them is drafted; llama.cpp drafts as many at
# least.
_MATCH = 3
# Several slots draft as many tokens as would pay if nearly all of them were right.
_HOPE = 0.95
# In the names of weights that work on a state instead of a cache.
_STATES = (".ssm_", ".time_mix_", ".shortconv.")


@dataclass(frozen=True)
class Drafting:
    """What was decided.

    Attributes:
        flags: of llama-server, with those that draft.
        policy: says before each pass how many tokens; None: as the flags have it.
        model: the one that drafts, under `plan`; it holds `nbytes`.
        keeps_rows: a pass over drafted tokens gives the bits of single ones.
        swa_full: the cache of a sliding window holds all tokens, so that they can be taken back.
        steady_ubatch: tokens of a prompt that are computed at a time without drafts.
    """

    flags: Extra
    policy: Policy | None = None
    model: Catalogue | None = None
    plan: Plan | None = None
    nbytes: int = 0
    keeps_rows: bool = False
    swa_full: bool = False
    steady_ubatch: int = 0

    def beside(self, settings: Settings) -> Settings:
        """What the other model is asked for: what the draft holds of a cap on weights is gone."""
        settings, capped = replace(settings, flags=self.flags), settings.weight_memory
        if self.plan is None or capped is None:
            return settings
        return replace(settings, weight_memory=capped - self.plan.held_bytes)

    def tell(self, sizes: Sizes) -> Sizes:
        """The sizes, with a line about drafts where there are any."""
        if not self.flags.drafts:
            return sizes
        who = "from what was written before" if self.model is None else f"by {self.model.name}"
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
        UnsupportedError: this model cannot be drafted for, or not in that way.
        BudgetError: the models do not fit together.
    """
    way, flags = _way(settings, catalogue), settings.flags
    if way == OFF and not flags.drafts:
        return Drafting(flags)
    forecast, times = rows_of_passes(settings, catalogue)
    alone = _Alone(forecast, times, decide(wish, catalogue, forecast), settings.budget)
    path = flags.draft_model if way in (OFF, NGRAM, AUTO) else way
    most = _most(settings, alone)
    drafting = Drafting(flags if way == OFF else _with(flags, path, most))
    token_us = 0
    if path is not None:
        pair = _pair(settings, catalogue, path, alone, most)
        token_us = round(1e6 / pair.draft.expected_tok_s)
        nbytes, draft = pair.draft.total - PROCESS, pair.draft
        drafting = replace(drafting, model=read_catalogue(path), nbytes=nbytes, plan=draft)
    if way != OFF:
        passes = PassTimes(round(1e6 / alone.sized.plan().expected_tok_s), times)
        drafting = replace(drafting, policy=Policy(passes, most, token_us))
    keeps = settings.slots == 1 and _refusal(settings, catalogue) is None
    swa = keeps and catalogue.parameter("attention.sliding_window") is not None
    steady = alone.sizes.ubatch
    return replace(drafting, keeps_rows=keeps, swa_full=swa, steady_ubatch=steady)


def _way(settings: Settings, catalogue: Catalogue) -> str:
    """The way of drafting: what was asked for, where the model can be drafted for."""
    way, flags = settings.draft, settings.flags.flags
    if way == OFF:
        return way
    if {"--spec-type", "-md", "--model-draft", "--spec-draft-model"} & set(flags):
        raise RequestError("--draft and the flags after -- both say who drafts; give one of them")
    refused = _refusal(settings, catalogue)
    if refused is None:
        return way
    if way != AUTO:
        raise refused
    return OFF


def _refusal(settings: Settings, catalogue: Catalogue) -> UnsupportedError | None:
    """Why answers of this model cannot be drafted, if so."""
    if settings.draft == MTP:
        return UnsupportedError(
            "--draft mtp: a trained head would want a second context over the weights that stream, "
            "which is not planned for; give ngram, auto or the file of a smaller model"
        )
    recurrent = any(mark in info.name for info in catalogue.tensors for mark in _STATES)
    elsewhere = settings.split is not None
    try:
        check_draftable(
            catalogue.name, catalogue.architecture, recurrent=recurrent, elsewhere=elsewhere
        )
    except UnsupportedError as error:
        return error
    return None


def _most(settings: Settings, alone: _Alone) -> int:
    """Tokens that each slot may draft: all of them fit one pass, and their logits the budget."""
    if settings.slots == 1:
        return MOST
    most = max(min(MOST, LARGEST_UBATCH // settings.slots - 1), 1)
    plan = alone.sized.plan()
    best = best_draft(plan, alone.times, _HOPE, most, sequences=settings.slots)
    return max(best.drafted, 1)


def _pair(settings: Settings, catalogue: Catalogue, path: str, alone: _Alone, most: int) -> Pair:
    draft = read_catalogue(path)
    check_served(draft)
    check_same_vocabulary(catalogue, draft)
    own = replace(settings, window=None, strategy="flex", split=None, mirrors=())
    beside = alone.of(forecast_of(draft, own))
    believed = Believed(alone.times, BELIEF, most, settings.slots)
    try:
        return plan_pair(alone.sized, beside, believed, PROCESS)
    except BudgetError as error:
        raise BudgetError(
            f"{error}, and {format_size(alone.sizes.reserve)} more for the server"
        ) from error


def _with(flags: Extra, path: str | None, most: int) -> Extra:
    """The flags, and those that draft up to `most` tokens; what was given by hand stays."""
    if path is None:
        wanted = {
            "--spec-type": "ngram-simple",
            "--spec-ngram-simple-size-n": str(_MATCH),
            "--spec-ngram-simple-size-m": str(max(most, _MATCH)),
        }
    else:
        wanted = {"-md": path, "--spec-type": "draft-simple", "--spec-draft-n-max": str(most)}
    new = [part for pair in wanted.items() if pair[0] not in flags.flags for part in pair]
    return read_extra((*flags.flags, *new))
