"""What the server may hold, decided before it starts: context, batch, caches, bounds of requests.

llama.cpp's server builds its slots from its arguments and never asks again, so all of it is
planned first and creation may only confirm.
"""

from __future__ import annotations

from dataclasses import replace

from flexinfer.errors import BudgetError, RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import MIN_UBATCH
from flexinfer.planning.planner import smallest_budget
from flexinfer.serve.comforts import LARGEST_UBATCH, comfortable, with_wished
from flexinfer.serve.reserve import MIB, Sizes, Wish, bounded
from flexinfer.sizes import format_size

LARGEST_CONTEXT = 4096
MIN_CONTEXT = 512


def decide(wish: Wish, catalogue: Catalogue, forecast: Forecast) -> Sizes:
    """Sizes for `wish`; `forecast` is of the model under the whole budget.

    Gives way in this order, a line each: prompt cache, checkpoints, batch, all where they would
    displace weights that each pass reads; context of a slot where none was asked.

    Raises:
        BudgetError: they do not fit; says what is needed.
        RequestError: the wish cannot be met by this model.
    """
    least = max(MIN_UBATCH, wish.slots * (1 + wish.drafts), LARGEST_UBATCH if wish.projector else 0)
    if wish.ubatch is not None and wish.ubatch < least:
        raise RequestError(
            f"--ubatch {wish.ubatch} is too small for --slots {wish.slots}; give {least} or more, "
            "or leave it out"
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
        sizes = bounded(wish, catalogue, ctx, least, said)
        sizes = with_wished(sizes, wish, catalogue, forecast)
        try:
            return comfortable(sizes, wish, catalogue, forecast)
        except BudgetError as error:
            if wish.ctx is None and ctx > MIN_CONTEXT:
                ctx = max(ctx // 2, MIN_CONTEXT)
            elif forecast.request.weight_memory is not None:
                raise
            else:
                raise BudgetError(_too_small(sizes, wish, catalogue, forecast)) from error


def _too_small(sizes: Sizes, wish: Wish, catalogue: Catalogue, forecast: Forecast) -> str:
    """What is needed, and the smallest budget that has it: of a larger one, images take more."""
    total, ubatch = sizes.total_ctx, sizes.least_ubatch
    request = replace(forecast.request, ctx=total, min_ctx=total, ubatch=ubatch, min_ubatch=ubatch)
    costs = forecast.costs(total, ubatch)
    model = budget = smallest_budget(forecast.weights, request, forecast.costs)
    least = sizes
    while budget < model + least.reserve:
        budget = -(-(model + least.reserve) // MIB) * MIB
        asked = replace(wish, budget=budget)
        least = bounded(asked, catalogue, sizes.ctx, ubatch, ())
        least = with_wished(least, asked, catalogue, forecast)
    return (
        f"the budget of {format_size(wish.budget)} is too small for {sizes}: "
        f"process {format_size(costs.overhead)} + the server's own "
        f"{format_size(least.reserve)} (requests, caches, other files) + KV cache "
        f"{format_size(costs.kv)} + compute buffers {format_size(costs.compute)} + smallest window "
        f"and margin {format_size(model - costs.total)}; the smallest that would do is "
        f"{budget // MIB} MiB"
    )


def _trained(catalogue: Catalogue) -> int:
    known = catalogue.parameter("context_length", LARGEST_CONTEXT)
    return known if isinstance(known, int) and known > 0 else LARGEST_CONTEXT


def _affordable(wish: Wish, ctx: int, forecast: Forecast) -> int:
    """Tokens a slot of which all slots' caches take at most half of the budget."""
    while ctx > MIN_CONTEXT and forecast.costs(wish.slots * ctx, MIN_UBATCH).kv > wish.budget // 2:
        ctx = max(ctx // 2, MIN_CONTEXT)
    return ctx
