"""What the server keeps beside its model: requests, caches, other files, each within a bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import slots_of
from flexinfer.planning.plan import MIN_UBATCH

MIB = 1 << 20
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
# Images are unpacked at 16 bytes a pixel: `server-build/media.cpp` counts the same.
_PIXELS = 64 * MIB
_PIXEL_SHARE = 16
# Text takes so much while it is parsed and tokenized: `server-build/hooks.cpp` counts the same.
_READING = 100
_TEXT = 64 << 10
_TEXT_TOKEN_BYTES = 8
# Beside slots and what waits for them, clients may hold so many connections.
_CONNECTIONS = 16
# So many send a body at the same moment; of larger ones than this, so many: `hooks.cpp` has the
# same bound.
_SENDING = 24
_LARGE_BODY = 2 * MIB
_LARGE_BODIES = 4
# Working memory of a projector beside its weights.
_PROJECTOR = 64 * MIB


@dataclass(frozen=True)
class Wish:
    """What was asked for: `ctx` tokens a slot, None to choose; sizes of other files in bytes.

    `steady_ubatch` tokens of a prompt are computed at a time wherever that fits; `handed` bytes go
    from the model to its own head.
    """

    budget: int
    slots: int
    ctx: int | None
    ubatch: int | None
    steady_ubatch: int = 0
    drafts: int = 0
    checkpoints: int | None = None
    embeddings: bool = False
    lora: int = 0
    projector: int = 0
    draft: int = 0
    handed: int = 0


@dataclass(frozen=True)
class Sizes:
    """What the server is started with; bytes unless said.

    Attributes:
        ctx: tokens a slot.
        body, requests: of one request as sent, of those that are read at a time.
        receiving: of large bodies while they are received.
        texts, pixels: beside a projector, of texts tokenized and images decoded at a time; else 0.
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
    receiving: int
    requests: int
    texts: int
    pixels: int
    threads: int
    probabilities: int
    reserve: int
    adapters: int = 0
    draft: int = 0
    said: tuple[str, ...] = ()

    def __str__(self) -> str:
        return slots_of(self.slots, self.ctx)

    @property
    def total_ctx(self) -> int:
        return self.slots * self.ctx


def bounded(wish: Wish, catalogue: Catalogue, ctx: int, least: int, said: tuple[str, ...]) -> Sizes:
    """What `wish` comes to with `ctx` tokens a slot and `least` tokens a pass, without caches."""
    embedding = catalogue.get("token_embd.weight")
    vocabulary = embedding.rows if embedding else 0
    body = min(_BODY + _TOKEN_BYTES * ctx, _LARGEST_BODY)
    if wish.projector:
        body = max(body, _IMAGE_BODY)
    requests = max(_READING * (_TEXT + _TEXT_TOKEN_BYTES * ctx), wish.budget // _REQUEST_SHARE)
    texts = pixels = 0
    if wish.projector:
        texts, requests = requests, _IMAGE_COPIES * body
        pixels = max(_PIXELS, wish.budget // _PIXEL_SHARE)
    threads = 2 * wish.slots + _CONNECTIONS
    receiving = _LARGE_BODIES * body if body > _LARGE_BODY else 0
    sending = min(threads, _SENDING) * min(body, _LARGE_BODY) + receiving
    slots = wish.slots * (_CANDIDATE_BYTES + 4 * wish.drafts) * vocabulary + _PROBABILITY_BYTES
    reserve = _SERVER + requests + texts + pixels + sending + slots + _other_files(wish)
    return Sizes(
        slots=wish.slots,
        ctx=ctx,
        ubatch=least,
        least_ubatch=least,
        cache_mib=0,
        checkpoints=0,
        body=body,
        receiving=receiving,
        requests=requests,
        texts=texts,
        pixels=pixels,
        threads=threads,
        probabilities=_PROBABILITY_BYTES // wish.slots,
        reserve=reserve,
        adapters=wish.lora,
        draft=wish.draft,
        said=said,
    )


def _other_files(wish: Wish) -> int:
    projector = wish.projector + _PROJECTOR if wish.projector else 0
    return wish.lora + wish.draft + wish.handed + projector


def with_caches(sizes: Sizes, wish: Wish, catalogue: Catalogue, forecast: Forecast) -> Sizes:
    """`sizes` with what caches may take of the budget, and a line for each that is left out."""
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
