"""Who drafts a model's answers, by name, and which models cannot be drafted for."""

from __future__ import annotations

from collections.abc import Callable

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.planning.plan import Plan
from flexinfer.speculate.drafts import Drafts, Source
from flexinfer.speculate.lookup import Lookup
from flexinfer.speculate.policy import PassTimes, Policy

OFF, NGRAM, AUTO = "off", "ngram", "auto"
# Tokens that are drafted at once, at most: the logits of each take memory.
MOST = 15
# What computing one more row takes, as a share of the first, before it was seen.
_ROW = 0.6
# A batch of tokens is another computation in these than one token after the other.
_BATCHED = {
    "chameleon": "forbids its tokens of images in one row of a batch alone",
    "minimax-m3": "looks at other parts of a text for several tokens than for one",
}


def check_wish(draft: object) -> None:
    """Raise `RequestError` for a way of drafting that there is not."""
    if draft not in (OFF, NGRAM, AUTO):
        raise RequestError(f"draft={draft!r} is no way of drafting; take off, ngram or auto")


def rows_of(draft: str) -> int:
    """Rows of logits that a context hands out at once, beside those of a prompt."""
    return 0 if draft == OFF else 1 + MOST


def check_draftable(name: str, architecture: str, *, recurrent: bool, wraps: bool = False) -> None:
    """Raise where a wrong draft could not be taken back, or would change what follows.

    Args:
        name, architecture: the model's.
        recurrent: it keeps a state instead of a cache, or beside it.
        wraps: the cache of a sliding window holds the window alone, used again and again.

    Raises:
        UnsupportedError: the reason.
    """
    why = None
    if wraps:
        why = "takes cells of its cache back in another order without swa_full=True"
    if recurrent:
        why = "keeps a state from which no token can be taken back"
    why = _BATCHED.get(architecture, why)
    if why is not None:
        raise UnsupportedError(f"{name} {why}, so its answers cannot be drafted; use draft off")


def drafts_of(source: Source | None, plan: Plan, ctx: int, ubatch: int, most: int = MOST) -> Drafts:
    """Drafts for a model under `plan`, from `source` or from what was written before.

    Args:
        ctx, ubatch: tokens that the context holds and that a pass computes.
    """
    compute = round(1e6 * plan.rates.compute_s)
    times = PassTimes(round(1e6 / plan.expected_tok_s), compute, round(_ROW * compute))
    return Drafts(source or Lookup(), Policy(times, min(most, ubatch - 1)), _room(ctx))


def _room(ctx: int) -> Callable[[int], int]:
    return lambda known: ctx - known
