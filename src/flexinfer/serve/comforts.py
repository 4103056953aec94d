"""What the server gets beyond the least: wide batches and caches, where they displace few weights.

Each pass streams what is displaced, so a stream of tokens pays for what other requests might like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from flexinfer.errors import BudgetError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import MIN_UBATCH, Plan
from flexinfer.planning.planner import comfortable_room
from flexinfer.serve.reserve import MIB, Sizes, Wish, with_cache, with_checkpoints, with_texts

LARGEST_UBATCH = 512
_MAX_CHECKPOINTS = 8
# Caches take at most this share of the budget, texts that are read together this one.
_CACHE_SHARE = 16
_TEXT_SHARE = 32
# What each pass streams may grow by a hundredth for each slot, up to so many of them: where several
# write, others' prompts wait.
_SLOTS = 4


def with_wished(sizes: Sizes, wish: Wish, catalogue: Catalogue, forecast: Forecast) -> Sizes:
    """`sizes` with the caches that were asked for.

    Of checkpoints one by default, if caches may take it: without, no conversation goes on.
    """
    sizes = with_cache(sizes, wish.cache_mib or 0)
    nbytes = checkpoint_bytes(catalogue, forecast, sizes.ctx)
    if not nbytes:
        return sizes
    count = min(_checkpoints(wish, nbytes), 1) if wish.checkpoints is None else wish.checkpoints
    if count:
        return with_checkpoints(sizes, count, nbytes)
    said = "no checkpoints: a conversation that goes on otherwise is computed from its start"
    return replace(sizes, said=(*sizes.said, said))


def comfortable(sizes: Sizes, wish: Wish, catalogue: Catalogue, forecast: Forecast) -> Sizes:
    """`sizes`, the least that the wish needs, with what displaces few weights.

    Raises:
        BudgetError: the budget does not hold `sizes`.
    """
    comforts = _Comforts(sizes, wish, forecast)
    sizes = comforts.with_batch(sizes)
    sizes = comforts.with_checkpoints(sizes, checkpoint_bytes(catalogue, forecast, sizes.ctx))
    sizes = comforts.with_cache(sizes)
    return comforts.first([with_texts(sizes, wish.budget // _TEXT_SHARE)], sizes)


class _Comforts:
    """Tries what `wish` may have beside `least` under the budget of `forecast`."""

    def __init__(self, least: Sizes, wish: Wish, forecast: Forecast) -> None:
        self._wish = wish
        self._forecast = forecast
        plan = self._plan(least)
        self._room = min(comfortable_room(forecast.weights), plan.room)
        self._streamed = plan.streamed_bytes * (100 + min(least.slots, _SLOTS)) // 100

    def first(self, candidates: Iterable[Sizes], otherwise: Sizes) -> Sizes:
        """The first of the candidates that displaces few enough weights."""
        return next(filter(self._displaces_little, candidates), otherwise)

    def with_checkpoints(self, sizes: Sizes, nbytes: int) -> Sizes:
        """More of them than one."""
        if self._wish.checkpoints is not None or not sizes.checkpoints:
            return sizes
        counts = _halves(_checkpoints(self._wish, nbytes), 2)
        return self.first((with_checkpoints(sizes, count, nbytes) for count in counts), sizes)

    def with_batch(self, sizes: Sizes) -> Sizes:
        """The width of a batch; one that was asked for displaces weights as long as there are any.

        So do texts whose vector is wanted: each is one batch.
        """
        wish, least = self._wish, sizes.least_ubatch
        wanted = most = wish.ubatch or max(LARGEST_UBATCH, least)
        wanted = min(wanted, max(sizes.total_ctx, least))
        if wish.steady_ubatch:
            wanted = max(min(wish.steady_ubatch, wanted), least)
        if wish.ubatch or wish.steady_ubatch or wish.vectors:
            sizes = replace(sizes, ubatch=self._plan(replace(sizes, ubatch=wanted)).ubatch)
        else:
            widths = _halves(wanted, least + 1)
            sizes = self.first((replace(sizes, ubatch=width) for width in widths), sizes)
        if sizes.ubatch >= min(most, max(sizes.total_ctx, least)):
            return sizes
        said = (
            f"{sizes.ubatch} tokens of a prompt a pass instead of {most}: weights have the memory"
        )
        if not wish.ubatch:
            said += f"; --ubatch {most} takes it"
        return replace(sizes, said=(*sizes.said, said))

    def with_cache(self, sizes: Sizes) -> Sizes:
        """A cache of prompts, where it holds a quarter of a slot or more."""
        if self._wish.vectors or self._wish.cache_mib is not None:
            return sizes
        slot = self._forecast.costs(sizes.ctx, MIN_UBATCH).kv
        most = min(self._wish.budget // _CACHE_SHARE, 2 * slot) // MIB
        counts = _halves(most, max(-(-slot // (4 * MIB)), 1))
        found = self.first((with_cache(sizes, mebibytes) for mebibytes in counts), sizes)
        if found.cache_mib == most and most:
            return found
        said = "no prompt cache"
        if found.cache_mib:
            said = f"prompt cache of {found.cache_mib} MiB instead of {most}"
        said += (
            ": conversations that lost their slot are computed anew; -- --cache-ram MIB keeps more"
        )
        return replace(found, said=(*found.said, said))

    def _plan(self, sizes: Sizes) -> Plan:
        wish = self._wish
        request = replace(
            self._forecast.request,
            budget=wish.budget - sizes.reserve,
            ctx=sizes.total_ctx,
            ubatch=sizes.ubatch,
            min_ctx=sizes.total_ctx,
            min_ubatch=sizes.least_ubatch,
            steady_ubatch=min(wish.steady_ubatch, sizes.ubatch),
        )
        return replace(self._forecast, request=request).plan()

    def _displaces_little(self, sizes: Sizes) -> bool:
        try:
            plan = self._plan(sizes)
        except BudgetError:
            return False
        enough = plan.ubatch == sizes.ubatch and plan.room >= self._room
        return enough and plan.streamed_bytes <= self._streamed


def _checkpoints(wish: Wish, nbytes: int) -> int:
    """How many of that size a slot may have."""
    return min(wish.budget // _CACHE_SHARE // (nbytes * wish.slots), _MAX_CHECKPOINTS)


def _halves(most: int, least: int) -> Iterable[int]:
    """`most`, half of it, and so on, down to `least`."""
    while most >= least:
        yield most
        most //= 2


def checkpoint_bytes(catalogue: Catalogue, forecast: Forecast, ctx: int) -> int:
    """At most so many bytes does one checkpoint of one slot take; 0 where none are made."""
    window = catalogue.parameter("attention.sliding_window")
    if isinstance(window, int) and window > 0:
        return forecast.costs(min(ctx, 2 * window), MIN_UBATCH).kv
    recurrent = ("ssm.state_size", "wkv.head_size", "shortconv.l_cache", "kda.head_dim")
    if any(catalogue.parameter(name) is not None for name in recurrent):
        return forecast.costs(1, MIN_UBATCH).kv
    return 0
