"""From sizes, a budget and rates to a plan: a pure function, no names, no operating system.

Finds the context and the batch that leave room for weights, and lets the strategy spend it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flexinfer.errors import BudgetError
from flexinfer.planning.adaptive_window import LEAST, AdaptiveWindow
from flexinfer.planning.expert_slots import Needs, choose_with_experts
from flexinfer.planning.fitting import MIB, lock_all, smallest_window
from flexinfer.planning.flex import choose_window, window_for
from flexinfer.planning.plan import Costs, CostsOf, Plan, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.strategies import STRATEGIES
from flexinfer.planning.weights import Weight
from flexinfer.sizes import format_size

_MARGIN = 32 * MIB
_MARGIN_SHARE = 32
# A window of this size keeps a drive busy; for less, the batch gives way first.
_COMFORTABLE = 64 * MIB


@dataclass(frozen=True)
class _Room:
    """Bytes for weights under one context."""

    ctx: int
    ubatch: int
    costs: Costs
    weights: int


def plan(weights: Sequence[Weight], request: Request, costs: CostsOf, rates: Rates) -> Plan:
    """Decide context, batch, window and locked weights for `request`.

    Gives way in this order: ubatch down to `request.min_ubatch`, window down to one slice, context
    down to `request.min_ctx`. `costs` is asked once for each pair that is tried.

    Raises:
        BudgetError: nothing fits; the message has the arithmetic and the smallest budget.
    """
    needs, comfortable = Needs.of(weights), comfortable_room(weights)
    steady = max(request.min_ubatch, request.steady_ubatch)
    for room in _rooms(request, costs):
        last_resort = room.ubatch <= steady or request.weight_memory is not None
        if room.weights >= (needs.least if last_resort else comfortable):
            return _decide(weights, needs, request, room, rates)
    raise BudgetError(_too_small(request, room, needs.least))


def comfortable_room(weights: Sequence[Weight]) -> int:
    """Bytes for `weights` below which the window is too small, and batches give way."""
    needs = Needs.of(weights)
    return min(max(_COMFORTABLE, needs.least), needs.whole)


def refit(plan: Plan, room: int) -> Plan:
    """The same plan with `room` bytes for locked weights and window; context and batch stay.

    Raises:
        BudgetError: `room` does not hold the smallest window.
    """
    needs = Needs.of(plan.weights)
    if room < needs.least:
        raise BudgetError(
            f"{format_size(max(room, 0))} are left for weights but one step needs "
            f"{format_size(needs.least)}; give a larger memory budget"
        )
    decided = _Room(plan.ctx, plan.ubatch, plan.costs, room)
    return _decide(plan.weights, needs, plan.request, decided, plan.rates)


def adaptive_window(plan: Plan) -> AdaptiveWindow | None:
    """What learns the window of `plan` from its passes; None where it is not to change.

    It stays where it was asked for by hand, where experts pass through one of their own, and where
    it is too small for the drive to notice.
    """
    request = plan.request
    adapts = STRATEGIES[request.strategy].resize is not None
    if not adapts or request.window is not None or plan.expert_window or plan.window < LEAST:
        return None
    least = max(smallest_window(plan.weights, plan.room), window_for(plan.rates.drive) // 2)
    # As when it was chosen: what can only be locked keeps its place.
    most = choose_window(plan.weights, plan.room, plan.room // 4)
    return AdaptiveWindow(plan.window, least, most)


def rewindow(plan: Plan, window: int) -> Plan:
    """The same plan with another window; as few locked weights as possible change."""
    resize = STRATEGIES[plan.request.strategy].resize
    if resize is None:
        raise ValueError(f"the window of {plan.request.strategy} does not change")
    fit = resize(plan.weights, plan.room, window, plan.locked_rows)
    change = f"window {format_size(plan.window)} -> {format_size(window)}: learned from waits"
    return replace(
        plan,
        locked_rows=fit.locked_rows,
        window=fit.window,
        slice_bytes=fit.slice_bytes,
        reasons=(change, *fit.reasons),
    )


def smallest_budget(weights: Sequence[Weight], request: Request, costs: CostsOf) -> int:
    """Bytes of the smallest budget, in whole MiB, that `plan` accepts for `request`."""
    least = costs(min(request.min_ctx, request.ctx), min(request.min_ubatch, request.ubatch))
    return budget_for(least.total + Needs.of(weights).least)


def budgets(plan: Plan, beside: int) -> tuple[int, int]:
    """Bytes of the smallest budget that `refit` takes, and of one with which nothing is read.

    `beside` bytes are used by everything but weights.
    """
    needs = Needs.of(plan.weights)
    return budget_for(beside + needs.least), budget_for(beside + needs.whole)


def margin(budget: int) -> int:
    """Bytes of the budget that no plan spends: what counting in pages and heaps misses."""
    return min(_MARGIN, budget // _MARGIN_SHARE)


def budget_for(need: int) -> int:
    """Bytes of the smallest budget, in whole MiB, that has `need` bytes beside its margin."""
    budget = min(need + _MARGIN, need * _MARGIN_SHARE // (_MARGIN_SHARE - 1))
    return -(-budget // MIB) * MIB


def _too_small(request: Request, room: _Room, need: int) -> str:
    costs = room.costs
    if request.weight_memory is not None:
        return (
            f"{format_size(request.weight_memory)} for weights is too small: one step needs "
            f"{format_size(need)}"
        )
    budget = budget_for(costs.total + need)
    return (
        f"the budget of {format_size(request.budget)} is too small: process "
        f"{format_size(costs.overhead)} + KV cache {format_size(costs.kv)} (context {room.ctx}) + "
        f"compute buffers {format_size(costs.compute)} + smallest window {format_size(need)} + "
        f"margin {format_size(margin(budget))}; the smallest that would do is {budget // MIB} MiB"
    )


def _rooms(request: Request, costs: CostsOf) -> Iterator[_Room]:
    """What is left for weights, while first the batch and then the context gives way."""
    ubatch, ctx = request.ubatch, request.ctx
    while True:
        need = costs(ctx, ubatch)
        if request.weight_memory is not None:
            yield _Room(ctx, ubatch, need, request.weight_memory)
            return
        left = request.budget - margin(request.budget) - need.total
        yield _Room(ctx, ubatch, need, left)
        if ubatch > request.min_ubatch:
            ubatch = max(ubatch // 2, request.min_ubatch)
        elif ctx > request.min_ctx:
            ctx = max(ctx // 2, request.min_ctx)
        else:
            return


def _decide(
    weights: Sequence[Weight], needs: Needs, request: Request, room: _Room, rates: Rates
) -> Plan:
    strategy = STRATEGIES[request.strategy]
    # A strategy that locks nothing does lock all of a model that is smaller than its window.
    locks = strategy.locks or room.weights < smallest_window(weights, room.weights)
    if needs.whole <= room.weights and locks:
        fit = lock_all(weights, room.weights)
    else:
        window = request.window
        if window is None and strategy.resize is not None:
            window = min(window_for(rates.drive), room.weights // 4)
        fit = choose_with_experts(weights, room.weights, window, strategy.choose)
    made = Plan(
        request=request,
        ctx=room.ctx,
        ubatch=room.ubatch,
        costs=room.costs,
        weights=tuple(weights),
        locked_rows=fit.locked_rows,
        window=fit.window,
        slice_bytes=fit.slice_bytes,
        rates=rates,
        room=room.weights,
        lookahead=strategy.lookahead,
        slots=fit.slots,
        expert_window=fit.expert_window,
        hit_rate=fit.hit_rate,
        reasons=(*_concessions(request, room), *fit.reasons, *_elsewhere(request)),
    )
    return replace(made, reasons=(*made.reasons, *_packing(made)))


def _elsewhere(request: Request) -> tuple[str, ...]:
    return () if request.split is None else request.split.reasons


def _packing(plan: Plan) -> list[str]:
    """Where packing what streams takes longer than the drive leaves time for."""
    reading = plan.streamed_bytes / plan.rates.drive
    if not plan.packing_s or plan.rates.compute_s + plan.packing_s <= reading:
        return []
    return [
        f"packing what streams takes {plan.packing_s:.3f} s a token, beside "
        f"{plan.rates.compute_s:.3f} s of computing: longer than reading it; --no-repack needs none"
    ]


def _concessions(request: Request, room: _Room) -> list[str]:
    left = format_size(room.weights)
    reasons = []
    if room.ubatch != request.ubatch:
        reasons.append(
            f"ubatch {request.ubatch} -> {room.ubatch}: smaller compute buffers leave {left} "
            "for weights"
        )
    if room.ctx != request.ctx:
        reasons.append(
            f"context {request.ctx} -> {room.ctx}: a smaller KV cache leaves {left} for weights"
        )
    return reasons
