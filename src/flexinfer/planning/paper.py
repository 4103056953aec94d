"""The strategies of the paper's evaluation: whole tensors, locked by layer and kind.

Their window holds three layers. They read layers and roles, which ours never does, and stream
whatever has no layer, such as the output matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flexinfer.planning.fitting import (
    Choose,
    Fit,
    floor_pages,
    lock_fixed,
    page_unit,
    smallest_window,
    whole_pages,
)
from flexinfer.planning.weights import ON_DEMAND, Weight, whole_cost
from flexinfer.sizes import format_size

# Kinds of tensors in the order in which the paper takes them. A fused kind comes where its first
# part would.
ATTENTION = ("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_output")
FFN = ("ffn_up", "ffn_down", "ffn_gate")
_WINDOW_LAYERS = 3
_SLICES = 4

# From the weights that may be locked, in graph order, and a capacity to indices to lock.
_Pick = Callable[[Sequence[Weight], Sequence[int], int], Iterable[int]]


def three_layers(weights: Sequence[Weight]) -> int:
    """Bytes of a window for the three largest layers; the output matrix counts as one."""
    layers: dict[int | str, int] = {}
    for weight in weights:
        if weight.use not in ON_DEMAND:
            key = weight.name if weight.layer is None else weight.layer
            layers[key] = layers.get(key, 0) + whole_cost(weight)
    return whole_pages(sum(sorted(layers.values())[-_WINDOW_LAYERS:]))


def paper(pick: _Pick) -> Choose:
    """A strategy with the paper's window that locks the whole weights that `pick` names."""

    def choose(weights: Sequence[Weight], room: int, asked: int | None) -> Fit:
        window, reason = _window(weights, room, asked)
        capacity = floor_pages(room - window)
        locked = lock_fixed(weights, capacity)
        left = capacity - _cost_of(weights, locked)
        free = [
            i
            for i, weight in enumerate(weights)
            if not locked[i] and weight.use not in ON_DEMAND and weight.layer is not None
        ]
        picked = list(pick(weights, free, left))
        for i in picked:
            locked[i] = weights[i].rows
        count = f"{len(picked)} of {len(free)} matrices of layers are locked"
        return Fit(tuple(locked), window, window // _SLICES, (reason, count))

    return choose


def _window(weights: Sequence[Weight], room: int, asked: int | None) -> tuple[int, str]:
    """The window and why it is as large; what every strategy locks comes first."""
    least = smallest_window(weights, room)
    fixed = whole_pages(_cost_of(weights, lock_fixed(weights, floor_pages(room - least))))
    wanted = asked or three_layers(weights)
    unit = page_unit(room)
    window = max(min(wanted, room - fixed) // unit * unit, least)
    meaning = "as asked" if asked else "three layers"
    if window < wanted // unit * unit:
        meaning = f"the {format_size(wanted)} wanted ({meaning}) do not fit"
    return window, f"window {format_size(window)}: {meaning}"


def _cost_of(weights: Sequence[Weight], locked: Sequence[int]) -> int:
    return sum(whole_cost(weight) for weight, rows in zip(weights, locked, strict=True) if rows)


def nothing(weights: Sequence[Weight], free: Sequence[int], capacity: int) -> list[int]:
    return []


def leading_layers(weights: Sequence[Weight], free: Sequence[int], capacity: int) -> list[int]:
    """Whole layers from the first on, until one does not fit."""
    layers: dict[int, list[int]] = {}
    for i in free:
        layer = weights[i].layer
        if layer is not None:
            layers.setdefault(layer, []).append(i)
    picked: list[int] = []
    for _, members in sorted(layers.items()):
        capacity -= sum(whole_cost(weights[i]) for i in members)
        if capacity < 0:
            break
        picked += members
    return picked


def by_kind(*kinds: str) -> _Pick:
    """One kind of tensor after the other, each from the first layer on; others come last."""

    def pick(weights: Sequence[Weight], free: Sequence[int], capacity: int) -> list[int]:
        rank = {kind: number for number, kind in enumerate(kinds)}
        order = sorted(free, key=lambda i: rank.get(weights[i].role or "", len(kinds)))
        return _those_that_fit(weights, order, capacity)

    return pick


def algorithm1(weights: Sequence[Weight], free: Sequence[int], capacity: int) -> list[int]:
    """The paper's Algorithm 1: how many FFN kinds are locked everywhere, then attention kinds.

    The sizes of W_Q and W_up decide about FFN kinds, as printed; then each kind is charged its
    real bytes, and what does not fit whole is skipped.
    """
    kinds = [kind for kind in FFN if any(weights[i].role == kind for i in free)]
    layers = len({weights[i].layer for i in free})
    ffn, attention = (_first_size(weights, free, group) for group in (FFN, ATTENTION))
    if capacity >= layers * (3 * ffn + 2 * attention):
        count = 3
    elif capacity >= 2 * layers * ffn:
        count = 2
    else:
        count = int(capacity >= layers * ffn)
    wanted = [*kinds[:count], *ATTENTION]
    order = [i for kind in wanted for i in free if weights[i].role == kind]
    return _those_that_fit(weights, order, capacity)


def _first_size(weights: Sequence[Weight], free: Sequence[int], kinds: Sequence[str]) -> int:
    sizes = {weights[i].role: weights[i].nbytes for i in reversed(free)}
    return next((sizes[kind] for kind in kinds if kind in sizes), 0)


def _those_that_fit(weights: Sequence[Weight], order: Sequence[int], capacity: int) -> list[int]:
    picked = []
    for i in order:
        if whole_cost(weights[i]) <= capacity:
            picked.append(i)
            capacity -= whole_cost(weights[i])
    return picked
