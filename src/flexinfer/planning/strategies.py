"""What stays in memory: ours, and the strategies of the paper's evaluation.

All share reader, window, ledger and accounting; only the locked set differs, and the window: the
paper's holds three layers. They read layers and roles, which ours never does, lock whole tensors,
and stream whatever has no layer, such as the output matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flexinfer.errors import RequestError
from flexinfer.planning.fitting import (
    Choice,
    floor_pages,
    lock_fixed,
    page_unit,
    smallest_window,
    whole_pages,
)
from flexinfer.planning.flex import balanced, with_window
from flexinfer.planning.plan import ON_DEMAND, Weight, piece_cost
from flexinfer.sizes import format_size

# Kinds of tensors in the order in which the paper takes them. A fused kind comes where its first
# part would.
ATTENTION = ("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_output")
FFN = ("ffn_up", "ffn_down", "ffn_gate")
_WINDOW_LAYERS = 3
_SLICES = 4

Choose = Callable[[Sequence[Weight], int, int | None], Choice]
Resize = Callable[[Sequence[Weight], int, int, Sequence[int]], Choice]
# From the weights that may be locked, in graph order, and a capacity to indices to lock.
_Pick = Callable[[Sequence[Weight], Sequence[int], int], Iterable[int]]


@dataclass(frozen=True)
class Strategy:
    """One way to spend a budget.

    Attributes:
        summary: one line for people.
        choose: from (weights, bytes for weights, window asked for) to a choice; called when not
            everything fits.
        lookahead: reads run ahead of the computation.
        locks: it keeps everything in memory when everything fits.
        resize: from (weights, bytes for weights, another window, rows locked now) to a choice; None
            where the window stays what it was.
    """

    summary: str
    choose: Choose
    lookahead: bool = True
    locks: bool = True
    resize: Resize | None = None


def three_layers(weights: Sequence[Weight]) -> int:
    """Bytes of a window for the three largest layers; the output matrix counts as one."""
    layers: dict[int | str, int] = {}
    for weight in weights:
        if weight.use not in ON_DEMAND:
            key = weight.name if weight.layer is None else weight.layer
            layers[key] = layers.get(key, 0) + piece_cost(weight, weight.rows)
    return whole_pages(sum(sorted(layers.values())[-_WINDOW_LAYERS:]))


def _paper(pick: _Pick) -> Choose:
    """A strategy with the paper's window that locks the whole weights that `pick` names."""

    def choose(weights: Sequence[Weight], room: int, asked: int | None) -> Choice:
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
        return Choice(tuple(locked), window, window // _SLICES, (reason, count))

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
    return sum(_cost(weight) for weight, rows in zip(weights, locked, strict=True) if rows)


def _nothing(weights: Sequence[Weight], free: Sequence[int], capacity: int) -> list[int]:
    return []


def _leading_layers(weights: Sequence[Weight], free: Sequence[int], capacity: int) -> list[int]:
    """Whole layers from the first on, until one does not fit."""
    layers: dict[int, list[int]] = {}
    for i in free:
        layer = weights[i].layer
        if layer is not None:
            layers.setdefault(layer, []).append(i)
    picked: list[int] = []
    for _, members in sorted(layers.items()):
        capacity -= sum(_cost(weights[i]) for i in members)
        if capacity < 0:
            break
        picked += members
    return picked


def _by_kind(*kinds: str) -> _Pick:
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
        if _cost(weights[i]) <= capacity:
            picked.append(i)
            capacity -= _cost(weights[i])
    return picked


def _cost(weight: Weight) -> int:
    return piece_cost(weight, weight.rows)


STRATEGIES: Mapping[str, Strategy] = {
    "flex": Strategy(
        "the budget filled exactly, unlocked bytes spread evenly in time",
        balanced,
        resize=with_window,
    ),
    "algorithm1": Strategy("the paper's Algorithm 1: kinds of tensors by size", _paper(algorithm1)),
    "attention-first": Strategy(
        "attention tensors of all layers, then FFN", _paper(_by_kind(*ATTENTION, *FFN))
    ),
    "ffn-first": Strategy(
        "FFN tensors of all layers, then attention", _paper(_by_kind(*FFN, *ATTENTION))
    ),
    "layers": Strategy("whole leading layers (unbalanced)", _paper(_leading_layers)),
    "prefetch": Strategy("no matrix locked, reads run ahead", _paper(_nothing), locks=False),
    "sync": Strategy(
        "no matrix locked, each read when it is needed",
        _paper(_nothing),
        lookahead=False,
        locks=False,
    ),
}


def check_strategy(name: str) -> None:
    """Raise `RequestError` unless there is a strategy of that name."""
    if name not in STRATEGIES:
        raise RequestError(f"there is no strategy {name!r}; take one of {', '.join(STRATEGIES)}")
