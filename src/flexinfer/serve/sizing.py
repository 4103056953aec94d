"""What the server may hold, decided before it starts: context, batch, caches, bounds of requests.

llama.cpp's server builds its slots from its arguments and never asks again, so all of it is
planned first and creation may only confirm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexinfer.errors import BudgetError, RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import MIN_UBATCH
from flexinfer.sizes import format_size

MIB = 1 << 20
LARGEST_CONTEXT = 4096
MIN_CONTEXT = 512
LARGEST_UBATCH = 512
_MAX_CHECKPOINTS = 8
# Caches take at most this share of the budget.
_CACHE_SHARE = 16
# The server's own objects, its log, parsed templates.
_SERVER = 12 * MIB
# A token's row in a slot's sampler, beside its logit.
_CANDIDATE_BYTES = 24
_PROBABILITY_BYTES = 4 * MIB
# A token is rarely longer in a request; fields around the text come on top.
_TOKEN_BYTES = 64
_BODY = 1 * MIB
_LARGEST_BODY = 32 * MIB
_IMAGE_BODY = 16 * MIB
_IMAGE_COPIES = 8
_REQUEST_SHARE = 32
# Text takes so much while it is parsed and tokenized: `server-build/hooks.cpp` counts the same.
_READING = 100
_TEXT = 64 << 10
_TEXT_TOKEN_BYTES = 8
# Beside slots and what waits for them, clients may hold so many connections.
_CONNECTIONS = 16
# So many send a large body at the same moment.
_SENDING = 24
# Working memory of a projector beside its weights.
_PROJECTOR = 64 * MIB


@dataclass(frozen=True)
class Wish:
    """What was asked for: `ctx` tokens a slot, None to choose; sizes of other files in bytes."""

    budget: int
    slots: int
    ctx: int | None
    ubatch: int | None
    drafts: int = 0
    checkpoints: int | None = None
    embeddings: bool = False
    lora: int = 0
    projector: int = 0
    draft: int = 0


@dataclass(frozen=True)
class Sizes:
    """What the server is started with; bytes unless said.

    Attributes:
        ctx: tokens a slot.
        body, requests: of one request as sent, of those that are read at a time.
        cache_mib: of prompts that no slot holds any more.
        checkpoints: for each slot.
        reserve: kept beside what the engine plans: all of the above but KV cache and weights.
        adapters, draft: parts of it that the device and a second model charge themselves.
        said: one line for each thing that gave way.
    """

    slots: int
    ctx: int
    ubatch: int
    least_ubatch: int
    cache_mib: int
    checkpoints: int
    body: int
    requests: int
    threads: int
    probabilities: int
    reserve: int
    adapters: int = 0
    draft: int = 0
    said: tuple[str, ...] = ()

    @property
    def total_ctx(self) -> int:
        return self.slots * self.ctx


def decide(wish: Wish, catalogue: Catalogue, forecast: Forecast) -> Sizes:
    """Sizes for `wish`; `forecast` is of the model under the whole budget.

    Gives way in this order, a line each: checkpoints, prompt cache, batch, context of a slot where
    none was asked.

    Raises:
        BudgetError: they do not fit; says what is needed.
        RequestError: the wish cannot be met by this model.
    """
    least = max(MIN_UBATCH, wish.slots * (1 + wish.drafts), LARGEST_UBATCH if wish.projector else 0)
    if wish.ubatch is not None and wish.ubatch < least:
        raise RequestError(
            f"--ubatch {wish.ubatch} cannot hold {wish.slots} slots in one pass; give {least} or "
            "more, or leave it out"
        )
    wanted = _trained(catalogue)
    if wish.ctx is None:
        wanted = min(wanted, LARGEST_CONTEXT)
        ctx = _affordable(wish, wanted, forecast)
        instead = f"instead of {wanted}, whose cache would leave too little for weights"
    else:
        ctx = min(wanted, wish.ctx)
        wanted, instead = wish.ctx, f"as the model was trained, not {wish.ctx}"
    while True:
        said = () if ctx == wanted else (f"context {ctx} a slot {instead}",)
        sizes = _bounds(wish, catalogue, ctx, least, said)
        sizes = _with_caches(sizes, wish, catalogue, forecast)
        try:
            return _with_batch(sizes, wish, forecast)
        except BudgetError:
            if wish.ctx is not None or ctx <= MIN_CONTEXT:
                raise
            ctx = max(ctx // 2, MIN_CONTEXT)


def _trained(catalogue: Catalogue) -> int:
    known = catalogue.parameter("context_length", LARGEST_CONTEXT)
    return known if isinstance(known, int) and known > 0 else LARGEST_CONTEXT


def _affordable(wish: Wish, ctx: int, forecast: Forecast) -> int:
    """Tokens a slot of which all slots' caches take at most half of the budget."""
    while ctx > MIN_CONTEXT and forecast.costs(wish.slots * ctx, MIN_UBATCH).kv > wish.budget // 2:
        ctx = max(ctx // 2, MIN_CONTEXT)
    return ctx


def _bounds(wish: Wish, catalogue: Catalogue, ctx: int, least: int, said: tuple[str, ...]) -> Sizes:
    embedding = catalogue.get("token_embd.weight")
    vocabulary = embedding.rows if embedding else 0
    body = min(_BODY + _TOKEN_BYTES * ctx, _LARGEST_BODY)
    if wish.projector:
        body = max(body, _IMAGE_BODY)
    requests = max(_READING * (_TEXT + _TEXT_TOKEN_BYTES * ctx), wish.budget // _REQUEST_SHARE)
    if wish.projector:
        requests = max(requests, _IMAGE_COPIES * body)
    threads = 2 * wish.slots + _CONNECTIONS
    reserve = (
        _SERVER
        + requests
        + min(threads, _SENDING) * body
        + wish.slots * (_CANDIDATE_BYTES * vocabulary + _PROBABILITY_BYTES // wish.slots)
        + wish.slots * wish.drafts * 4 * vocabulary
        + wish.lora
        + wish.draft
    )
    if wish.projector:
        reserve += wish.projector + _PROJECTOR
    return Sizes(
        slots=wish.slots,
        ctx=ctx,
        ubatch=least,
        least_ubatch=least,
        cache_mib=0,
        checkpoints=0,
        body=body,
        requests=requests,
        threads=threads,
        probabilities=_PROBABILITY_BYTES // wish.slots,
        reserve=reserve,
        adapters=wish.lora,
        draft=wish.draft,
        said=said,
    )


def _with_caches(sizes: Sizes, wish: Wish, catalogue: Catalogue, forecast: Forecast) -> Sizes:
    share = wish.budget // _CACHE_SHARE
    said = list(sizes.said)
    checkpoint = _checkpoint_bytes(catalogue, forecast, sizes.ctx)
    count = 0
    if checkpoint:
        fit = share // (checkpoint * sizes.slots)
        count = min(fit, _MAX_CHECKPOINTS) if wish.checkpoints is None else wish.checkpoints
        if not count:
            said.append(
                "no checkpoints: a conversation that goes on otherwise is computed from its start"
            )
    slot = forecast.costs(sizes.ctx, MIN_UBATCH).kv
    cache = min(share, 2 * slot) // MIB
    if cache * MIB < slot // 4 or wish.embeddings:
        cache = 0
        if not wish.embeddings:
            said.append("no prompt cache: a conversation that lost its slot is computed anew")
    return replace(
        sizes,
        cache_mib=cache,
        checkpoints=count,
        reserve=sizes.reserve + cache * MIB + count * checkpoint * sizes.slots,
        said=tuple(said),
    )


def _checkpoint_bytes(catalogue: Catalogue, forecast: Forecast, ctx: int) -> int:
    """At most so many bytes does one checkpoint of one slot take; 0 where none are made."""
    window = catalogue.parameter("attention.sliding_window")
    if isinstance(window, int) and window > 0:
        return forecast.costs(min(ctx, 2 * window), MIN_UBATCH).kv
    recurrent = ("ssm.state_size", "wkv.head_size", "shortconv.l_cache", "kda.head_dim")
    if any(catalogue.parameter(name) is not None for name in recurrent):
        return forecast.costs(1, MIN_UBATCH).kv
    return 0


def _with_batch(sizes: Sizes, wish: Wish, forecast: Forecast) -> Sizes:
    """The batch that the plan of the model leaves; the engine plans the same again, exactly."""
    wanted = wish.ubatch or max(LARGEST_UBATCH, sizes.least_ubatch)
    wanted = min(wanted, max(sizes.total_ctx, sizes.least_ubatch))
    request = replace(
        forecast.request,
        budget=wish.budget - sizes.reserve,
        ctx=sizes.total_ctx,
        ubatch=wanted,
        min_ctx=sizes.total_ctx,
        min_ubatch=sizes.least_ubatch,
    )
    try:
        plan = replace(forecast, request=request).plan()
    except BudgetError as error:
        raise BudgetError(
            f"{error} ({format_size(sizes.reserve)} of {format_size(wish.budget)} are the "
            f"server's own: requests, caches, other files; {sizes.slots} slots of {sizes.ctx})"
        ) from error
    said = sizes.said
    if plan.ubatch < wanted:
        said = (*said, f"{plan.ubatch} tokens of a prompt a pass instead of {wanted}")
    return replace(sizes, ubatch=plan.ubatch, said=said)
