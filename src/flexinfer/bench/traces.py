"""Routing traces: recorded or made, and what any policy would have done with them.

A trace is integers: for each token and each layer the experts it went to. `simulate` replays one
against a policy and a number of slots; `optimum` is Belady's bound, which knows the future.
"""

from __future__ import annotations

import bisect
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from flexinfer.errors import RequestError
from flexinfer.storage.experts.eviction import POLICIES, Chooser, Shadow


@dataclass(frozen=True)
class Trace:
    """Experts of each layer, token by token: ``layers[layer][token]`` is a tuple of experts.

    `label` says where it comes from: a model and a text, or how it was made.
    """

    label: str
    experts: int
    layers: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def tokens(self) -> int:
        return max(map(len, self.layers), default=0)

    @property
    def used(self) -> int:
        """Experts of one token in one layer."""
        return max((len(token) for layer in self.layers for token in layer), default=0)

    def overlap(self) -> float:
        """Share of a token's experts that the token before it had in the same layer."""
        same = total = 0
        for layer in self.layers:
            for before, token in itertools.pairwise(layer):
                same += len(set(before) & set(token))
                total += len(token)
        return same / total if total else 0.0

    def to_text(self) -> str:
        """The trace as one line that `from_text` reads back."""
        document = {"label": self.label, "experts": self.experts, "layers": self.layers}
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Trace:
        """The trace in a text of `to_text`.

        Raises:
            RequestError: the text holds none.
        """
        try:
            document = json.loads(text)
            layers = tuple(tuple(map(tuple, layer)) for layer in document["layers"])
            return cls(str(document["label"]), int(document["experts"]), layers)
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"this is no routing trace: {error!r}") from error


class TraceRecorder:
    """Collects the routing of a running model; give it to `Llama.experts.recorder`."""

    def __init__(self) -> None:
        self._layers: dict[int, list[tuple[int, ...]]] = {}

    def __repr__(self) -> str:
        return f"<TraceRecorder {len(self._layers)} layers>"

    def __call__(self, group: int, tokens: Sequence[Sequence[int]]) -> None:
        self._layers.setdefault(group, []).extend(map(tuple, tokens))

    def trace(self, label: str, experts: int) -> Trace:
        """What was recorded so far."""
        layers = tuple(tuple(self._layers[group]) for group in sorted(self._layers))
        return Trace(label, experts, layers)


# -- replaying -------------------------------------------------------------------------------


def simulate(trace: Trace, policy: str, slots: int) -> float:
    """Hit rate of `policy` ("best" is the one the shadows choose as they go) with `slots` a layer.

    Raises:
        RequestError: there is no such policy.
    """
    if policy == "best":
        return _rate(trace, lambda layer: _chosen_hits(layer, slots))
    if policy not in POLICIES:
        raise RequestError(f"there is no policy {policy!r}; take one of {', '.join(POLICIES)}")
    return _rate(trace, lambda layer: sum(map(Shadow(POLICIES[policy](), slots).access, layer)))


def optimum(trace: Trace, slots: int) -> float:
    """Belady's hit rate: whenever room is needed, the one goes that is wanted last."""
    return _rate(trace, lambda layer: _belady_hits(layer, slots))


Layer = Sequence[Sequence[int]]


def _rate(trace: Trace, hits: Callable[[Layer], int]) -> float:
    wanted = sum(len(set(token)) for layer in trace.layers for token in layer)
    return sum(map(hits, trace.layers)) / wanted if wanted else 0.0


def _chosen_hits(layer: Layer, slots: int) -> int:
    chooser, real = Chooser(slots), Shadow(POLICIES["lfu"](), slots)
    followed = {name: make() for name, make in POLICIES.items()}
    hits = 0
    for token in layer:
        chooser.access(token)
        for policy in followed.values():
            if policy is not followed[chooser.best]:
                policy.tick()
                for expert in set(token):
                    policy.use(expert)
        real.policy = followed[chooser.best]
        hits += real.access(token)
    return hits


def _belady_hits(layer: Layer, slots: int) -> int:
    uses: dict[int, list[int]] = {}
    for at, token in enumerate(layer):
        for expert in set(token):
            uses.setdefault(expert, []).append(at)
    held: set[int] = set()
    hits = 0
    for at, token in enumerate(layer):
        wanted = set(token)
        hits += len(wanted & held)
        held |= wanted
        if len(held) > slots:
            order = sorted(held, key=lambda expert: _next_use(uses[expert], at))
            held = set(order[:slots])
    return hits


def _next_use(uses: Sequence[int], at: int) -> float:
    position = bisect.bisect_right(uses, at)
    return uses[position] if position < len(uses) else float("inf")


# -- made traces -----------------------------------------------------------------------------


def made_trace(kind: str, *, experts: int, used: int, layers: int, tokens: int) -> Trace:
    """A trace of one of `KINDS`; the same arguments give the same trace.

    Raises:
        RequestError: there is no such kind.
    """
    if kind not in KINDS:
        raise RequestError(f"there is no trace {kind!r}; take one of {', '.join(KINDS)}")
    exponent, recency, drift = KINDS[kind]
    made = tuple(
        _made_layer(
            random.Random(f"{kind} {layer}"), experts, used, tokens, exponent, recency, drift
        )
        for layer in range(layers)
    )
    return Trace(kind, experts, made)


# Exponent of Zipf's law, chance to stay with an expert of the token before, tokens after which
# the popular experts are others.
KINDS = MappingProxyType(
    {
        "uniform": (0.0, 0.0, 0),
        "zipf 0.6": (0.6, 0.0, 0),
        "zipf 1.0": (1.0, 0.0, 0),
        "zipf 0.6, recent": (0.6, 0.6, 0),
        "zipf 0.6, recent, drifting": (0.6, 0.6, 500),
        "uniform, recent": (0.0, 0.25, 0),
    }
)


def _made_layer(
    rng: random.Random,
    experts: int,
    used: int,
    tokens: int,
    exponent: float,
    recency: float,
    drift: int,
) -> tuple[tuple[int, ...], ...]:
    weights = [(rank + 1) ** -exponent for rank in range(experts)]
    names = list(range(experts))
    rng.shuffle(names)
    layer: list[tuple[int, ...]] = []
    before: tuple[int, ...] = ()
    for at in range(tokens):
        if drift and at % drift == 0:
            rng.shuffle(names)
        chosen = {expert for expert in before if rng.random() < recency}
        while len(chosen) < used:
            chosen.add(names[rng.choices(range(experts), weights)[0]])
        before = tuple(sorted(chosen))
        layer.append(before)
    return tuple(layer)
