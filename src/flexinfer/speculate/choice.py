"""Who drafts a model's answers, by name, and which models cannot be drafted for."""

from __future__ import annotations

import os
from collections.abc import Callable

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.planning.drafted import MOST, NAMES
from flexinfer.planning.many import RowTimes
from flexinfer.planning.plan import Plan
from flexinfer.speculate.drafts import Drafts, Source
from flexinfer.speculate.lookup import Lookup
from flexinfer.speculate.policy import PassTimes, Policy

# A batch of tokens is another computation in these than one token after the other.
_BATCHED = {
    "chameleon": "forbids its tokens of images in one row of a batch alone",
    "minimax-m3": "looks at other parts of a text for several tokens than for one",
}


def is_file(draft: object) -> bool:
    """Whether it names a model that drafts.

    Raises:
        RequestError: it is no way of drafting at all.
    """
    if isinstance(draft, str) and draft in NAMES:
        return False
    path = os.fspath(draft) if isinstance(draft, (str, os.PathLike)) else ""
    if isinstance(path, str) and (path.endswith(".gguf") or os.path.exists(path)) and path:
        return True
    raise RequestError(
        f"draft={draft!r} is no way of drafting; take off, ngram, auto or the path of a GGUF file"
    )


def check_draftable(
    name: str, architecture: str, *, recurrent: bool, wraps: bool = False, elsewhere: bool = False
) -> None:
    """Raise where a wrong draft could not be taken back, or would change what follows.

    Args:
        name, architecture: the model's.
        recurrent: it keeps a state instead of a cache, or beside it.
        wraps: the cache of a sliding window holds the window alone, used again and again.
        elsewhere: others compute layers of it.

    Raises:
        UnsupportedError: the reason.
    """
    why = None
    if wraps:
        why = "takes cells of its cache back in another order without swa_full=True"
    if elsewhere:
        why = "has layers elsewhere, where rows of a pass are computed together"
    if recurrent:
        why = "keeps a state from which no token can be taken back"
    why = _BATCHED.get(architecture, why)
    if why is not None:
        raise UnsupportedError(f"{name} {why}, so its answers cannot be drafted; use draft off")


def drafts_of(source: Source | None, plan: Plan, times: RowTimes, ctx: int, ubatch: int) -> Drafts:
    """Drafts for a model under `plan`, from `source` or from what was written before.

    Args:
        times: of computing several rows.
        ctx, ubatch: tokens that the context holds and that a pass computes.
    """
    passes = PassTimes(round(1e6 / plan.expected_tok_s), times)
    return Drafts(source or Lookup(), Policy(passes, min(MOST, ubatch - 1)), _room(ctx))


def _room(ctx: int) -> Callable[[int], int]:
    return lambda known: ctx - known
