"""What drafting brings: tokens of a pass over several rows, and the number that pays best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexinfer.errors import BudgetError
from flexinfer.planning import planner
from flexinfer.planning.many import RowTimes
from flexinfer.planning.plan import CostsOf, Plan, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Weight

OFF, NGRAM, AUTO = "off", "ngram", "auto"
# Ways of drafting; whatever else is given is the file of a model that does.
NAMES = (OFF, NGRAM, AUTO)
# Tokens that are drafted at once, at most: the logits of each take memory.
MOST = 15
# The share of drafted tokens that is believed to be right before any was tried.
BELIEF = 0.75
# Fewer tokens that bring nearly as much are drafted instead.
NEARLY = 0.99


@dataclass(frozen=True)
class Drafted:
    """What comes of `drafted` tokens a pass, each of which is right with `acceptance`.

    0 drafted tokens are a pass a token, where drafting does not pay.
    """

    drafted: int
    acceptance: float
    tokens_a_pass: float
    tok_s: float


def rows_of(draft: str) -> int:
    """Rows of logits that a context hands out at once, beside those of a prompt."""
    return 0 if draft == OFF else 1 + MOST


def with_steady_batch(
    weights: Sequence[Weight], request: Request, plain: CostsOf, rates: Rates, beside: int = 0
) -> Request:
    """`request`, in which prompts are computed as they would be without drafts, if that fits.

    Args:
        plain: costs without drafts.
        beside: bytes of a model that drafts.
    """
    alone = replace(request, budget=request.budget + beside)
    try:
        return replace(request, steady_ubatch=planner.plan(weights, alone, plain, rates).ubatch)
    except BudgetError:
        return request


def expected_tokens(acceptance: float, drafted: int) -> float:
    """Tokens that a pass brings: the right ones of its draft, and one of its own."""
    return sum(acceptance**right for right in range(drafted + 1))


def best_draft(
    plan: Plan,
    times: RowTimes,
    acceptance: float,
    most: int = MOST,
    token_s: float = 0.0,
    sequences: int = 1,
) -> Drafted:
    """The number of drafted tokens with the highest rate under `plan`; of nearly equals the least.

    Args:
        times: of computing several rows.
        most: tokens that may be drafted at once.
        token_s: seconds that drafting one takes.
        sequences: that are decoded together, each with a draft of its own.
    """
    alone = 1.0 / plan.expected_tok_s
    points = []
    for drafted in range(most + 1):
        seconds = max(alone, times.seconds(sequences * (1 + drafted))) + drafted * token_s
        tokens = expected_tokens(acceptance, drafted)
        points.append(Drafted(drafted, acceptance, tokens, tokens / seconds))
    highest = max(point.tok_s for point in points)
    return next(point for point in points if point.tok_s >= NEARLY * highest)
