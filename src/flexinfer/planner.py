"""From sizes, a budget and rates to a plan: a pure function, no names, no operating system.

One sequence's rate depends only on the bytes that stream, as long as they are spread evenly in
time. So: fill the budget exactly, and leave unlocked what makes the unlocked bytes grow in step
with the compute time (an error diffusion over the weights in graph order).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flexinfer.errors import BudgetError
from flexinfer.plan import Costs, CostsOf, Plan, Rates, Request, Use, Weight, piece_cost
from flexinfer.sizes import format_size
from flexinfer.strategies import (
    MIB,
    STRATEGIES,
    Choice,
    locked_cost,
    page_unit,
)

MIN_UBATCH = 32
_WINDOW = 128 * MIB
_MARGIN = 64 * MIB
# Locking a small tensor saves a segment of the pass; streaming it would gain nothing.
_SMALL = MIB


@dataclass(frozen=True)
class _Room:
    """Bytes for weights under one context."""

    ctx: int
    ubatch: int
    costs: Costs
    weights: int


def plan(weights: Sequence[Weight], request: Request, costs: CostsOf, rates: Rates) -> Plan:
    """Decide context, batch, window and locked weights for `request`.

    Gives way in this order: ubatch down to 32, window down to one slice, context down to
    `request.min_ctx`.

    Raises:
        BudgetError: nothing fits; the message has the arithmetic and the smallest budget.
    """
    everything = locked_cost(weights, [weight.rows for weight in weights])
    smallest = _smallest_window(weights)
    comfortable = max(_WINDOW // 2, smallest)
    for room in _rooms(request, costs):
        last_resort = room.ubatch <= MIN_UBATCH or request.weight_memory is not None
        if room.weights >= min(everything, smallest if last_resort else comfortable):
            return _decide(weights, request, room, rates, everything)
    need = room.costs.total + min(smallest, everything)
    raise BudgetError(_too_small(request, room, need))


def refit(plan: Plan, room: int) -> Plan:
    """The same plan with `room` bytes for locked weights and window; context and batch stay.

    Raises:
        BudgetError: `room` does not hold the smallest window.
    """
    weights, request = plan.weights, plan.request
    everything = locked_cost(weights, [weight.rows for weight in weights])
    smallest = _smallest_window(weights)
    if room < min(everything, smallest):
        raise BudgetError(
            f"{format_size(max(room, 0))} are left for weights but one step needs "
            f"{format_size(min(everything, smallest))}; give a larger memory budget"
        )
    decided = _Room(plan.ctx, plan.ubatch, plan.costs, room)
    return _decide(weights, request, decided, plan.rates, everything)


def margin(budget: int) -> int:
    """Bytes of the budget that no plan spends: what counting in pages and heaps misses."""
    return min(_MARGIN, budget // 32)


def _too_small(request: Request, room: _Room, need: int) -> str:
    smallest = -(-(need * 32 // 31 + MIB) // MIB)
    costs = room.costs
    if request.weight_memory is not None:
        return (
            f"{format_size(request.weight_memory)} for weights is too small: one step needs "
            f"{format_size(need - costs.total)}"
        )
    return (
        f"the budget of {format_size(request.budget)} is too small: process "
        f"{format_size(costs.overhead)} + KV cache {format_size(costs.kv)} (context {room.ctx}) + "
        f"compute buffers {format_size(costs.compute)} + smallest window "
        f"{format_size(need - costs.total)}; the smallest that would do is {smallest} MiB"
    )


def _rooms(request: Request, costs: CostsOf) -> Iterator[_Room]:
    """What is left for weights, while first the batch and then the context gives way."""
    ubatch, ctx = request.ubatch, request.ctx
    while True:
        need = costs(ctx, ubatch)
        left = request.budget - margin(request.budget) - need.total
        if request.weight_memory is not None:
            yield _Room(ctx, ubatch, need, request.weight_memory)
            return
        yield _Room(ctx, ubatch, need, left)
        if ubatch > MIN_UBATCH:
            ubatch = max(ubatch // 2, MIN_UBATCH)
        elif ctx > request.min_ctx:
            ctx = max(ctx // 2, request.min_ctx)
        else:
            return


def _decide(
    weights: Sequence[Weight], request: Request, room: _Room, rates: Rates, everything: int
) -> Plan:
    strategy = STRATEGIES[request.strategy]
    if everything <= room.weights and strategy.locks:
        rows = tuple(weight.rows for weight in weights)
        choice = Choice(rows, 0, 0, ("everything fits: all weights are locked",))
    elif strategy.choose is not None:
        choice = strategy.choose(weights, room.weights, request.window)
    else:
        choice = _flex(weights, room.weights, request.window)
    return Plan(
        request=request,
        ctx=room.ctx,
        ubatch=room.ubatch,
        costs=room.costs,
        weights=tuple(weights),
        locked_rows=choice.locked_rows,
        window=choice.window,
        slice_bytes=choice.slice_bytes,
        rates=rates,
        lookahead=strategy.lookahead,
        reasons=(*_concessions(request, room), *choice.reasons),
    )


def _concessions(request: Request, room: _Room) -> list[str]:
    reasons = []
    if room.ubatch != request.ubatch:
        reasons.append(f"ubatch {request.ubatch} -> {room.ubatch}: compute buffers were too large")
    if room.ctx != request.ctx:
        reasons.append(f"context {request.ctx} -> {room.ctx}: the KV cache was too large")
    return reasons


# -- ours ------------------------------------------------------------------------------------


def _flex(weights: Sequence[Weight], room: int, window: int | None) -> Choice:
    unit = page_unit(room)
    window = min(window or _window(weights, room), room // unit * unit)
    slice_bytes = window // 4
    capacity = (room - window) // unit * unit
    locked = [0] * len(weights)
    left = _lock_small(weights, locked, capacity)
    order = [i for i, w in enumerate(weights) if not locked[i] and w.use is not Use.ROWS]
    _diffuse(weights, locked, order, left)
    _cut_to(weights, locked, order, capacity)
    partial = _fill(weights, locked, order, capacity)
    reasons = [
        f"window {format_size(window)}: reads run that far ahead",
        f"{sum(map(bool, locked))} of {len(weights)} weights locked, spread evenly in time",
    ]
    if partial:
        reasons.append(f"{partial} is locked in part, so that the budget is used up")
    return Choice(tuple(locked), window, slice_bytes, tuple(reasons))


def _window(weights: Sequence[Weight], room: int) -> int:
    """A quarter of small budgets, at most 128 MiB, but room for two of the largest pieces."""
    unit = page_unit(room)
    comfortable = min(_WINDOW, max(room // 4, unit)) // unit * unit
    return min(max(comfortable, _smallest_window(weights)), room)


def _smallest_window(weights: Sequence[Weight]) -> int:
    """Two of the largest pieces that cannot be made smaller; whole pages."""
    largest = max((_smallest_piece(w) for w in weights if w.use is not Use.ROWS), default=0)
    unit = page_unit(2 * largest)
    return -(-2 * largest // unit) * unit


def _smallest_piece(weight: Weight) -> int:
    if weight.row_step and weight.rows > weight.row_step:
        # The last slice takes the remainder of the rows.
        return piece_cost(weight, min(2 * weight.row_step, weight.rows))
    return piece_cost(weight, weight.rows)


def _lock_small(weights: Sequence[Weight], locked: list[int], left: int) -> int:
    """Lock small and indivisible weights, smallest first; returns the bytes left."""
    fixed = [
        (weight.nbytes, i)
        for i, weight in enumerate(weights)
        if weight.use is not Use.ROWS and (weight.nbytes <= _SMALL or weight.use is Use.WHOLE)
    ]
    for _, i in sorted(fixed):
        cost = piece_cost(weights[i], weights[i].rows)
        if cost > left:
            break
        locked[i] = weights[i].rows
        left -= cost
    return left


def _diffuse(weights: Sequence[Weight], locked: list[int], order: list[int], left: int) -> None:
    """Lock whole weights so that unlocked bytes grow evenly with the compute time."""
    total = sum(weights[i].nbytes for i in order)
    clock = sum(_clock(weights[i]) for i in order)
    if not clock:
        return
    rate = max(total - left, 0) / clock
    elapsed = unlocked = 0.0
    for i in order:
        elapsed += _clock(weights[i])
        if unlocked + weights[i].nbytes / 2 > rate * elapsed:
            locked[i] = weights[i].rows
        else:
            unlocked += weights[i].nbytes


def _clock(weight: Weight) -> float:
    return weight.compute_s or float(weight.nbytes)


def _cut_to(
    weights: Sequence[Weight], locked: list[int], order: list[int], capacity: int
) -> None:
    """Unlock from the end what the diffusion rounded up beyond the capacity."""
    for i in reversed(order):
        if locked_cost(weights, locked) <= capacity:
            return
        locked[i] = 0


def _fill(
    weights: Sequence[Weight], locked: list[int], order: list[int], capacity: int
) -> str | None:
    """Lock more, whole or in part, until no step of rows fits; returns the last partial weight."""
    partial = None
    left = capacity - locked_cost(weights, locked)
    for i in sorted(order, key=lambda i: -weights[i].nbytes):
        weight = weights[i]
        if locked[i]:
            continue
        rows = _rows_within(weight, left)
        if rows:
            locked[i] = rows
            left -= piece_cost(weight, rows)
            partial = weight.name if rows < weight.rows else partial
    return partial


def _rows_within(weight: Weight, nbytes: int) -> int:
    """How many leading rows fit: all, or a multiple of the step that leaves a step to stream."""
    if piece_cost(weight, weight.rows) <= nbytes:
        return weight.rows
    if not weight.row_step:
        return 0
    rows = (nbytes - piece_cost(weight, 0)) // weight.row_bytes // weight.row_step * weight.row_step
    return max(min(rows, weight.rows - weight.row_step), 0) // weight.row_step * weight.row_step
