"""What the server keeps beside its model: requests, caches, other files, each within a bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.many import slots_of

MIB = 1 << 20
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
# Images are unpacked at 16 bytes a pixel: `server-build/media.cpp` counts the same.
_PIXELS = 64 * MIB
_PIXEL_SHARE = 16
# Text takes so much while it is parsed and tokenized: `server-build/hooks.cpp` counts the same.
_READING = 100
_TEXT = 64 << 10
_TEXT_TOKEN_BYTES = 8
# Beside slots and what waits for them, clients may hold so many connections.
_CONNECTIONS = 16
# Each may send a body of this size at the same moment, of larger ones so many of the largest:
# `hooks.cpp` has the same bound.
_SMALL_BODY = 64 << 10
_LARGE_BODIES = 4
# Working memory of a projector beside its weights.
_PROJECTOR = 64 * MIB


@dataclass(frozen=True)
class Wish:
    """What was asked for: `ctx` tokens a slot, None to choose; sizes of other files in bytes.

    `steady_ubatch` tokens of a prompt are computed at a time wherever that fits; `handed` bytes go
    from the model to its own head. `vectors`: texts are answered by vectors, in one batch each.
    """

    budget: int
    slots: int
    ctx: int | None
    ubatch: int | None
    steady_ubatch: int = 0
    drafts: int = 0
    checkpoints: int | None = None
    cache_mib: int | None = None
    vectors: bool = False
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
    """The least that `wish` comes to with `ctx` tokens a slot and `least` tokens a pass."""
    embedding = catalogue.get("token_embd.weight")
    vocabulary = embedding.rows if embedding else 0
    body = min(_BODY + _TOKEN_BYTES * ctx, _LARGEST_BODY)
    if wish.projector:
        body = max(body, _IMAGE_BODY)
    requests = _READING * (_TEXT + _TEXT_TOKEN_BYTES * ctx)
    texts = pixels = 0
    if wish.projector:
        texts, requests = requests, _IMAGE_COPIES * body
        pixels = max(_PIXELS, wish.budget // _PIXEL_SHARE)
    threads = 2 * wish.slots + _CONNECTIONS
    receiving = _LARGE_BODIES * body
    sending = threads * _SMALL_BODY + receiving
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


def with_texts(sizes: Sizes, nbytes: int) -> Sizes:
    """`sizes` in which texts take up to `nbytes` while they are read, if that is more."""
    field = "texts" if sizes.texts else "requests"
    more = max(nbytes - getattr(sizes, field), 0)
    return replace(sizes, reserve=sizes.reserve + more, **{field: getattr(sizes, field) + more})


def with_cache(sizes: Sizes, mebibytes: int) -> Sizes:
    """`sizes` with so large a cache of prompts that no slot holds any more."""
    return replace(sizes, cache_mib=mebibytes, reserve=sizes.reserve + mebibytes * MIB)


def with_checkpoints(sizes: Sizes, count: int, nbytes: int) -> Sizes:
    """`sizes` with `count` checkpoints a slot, of `nbytes` each."""
    more = count - sizes.checkpoints
    return replace(sizes, checkpoints=count, reserve=sizes.reserve + more * nbytes * sizes.slots)
