"""Which layers live where, when more memory than this machine's is at hand: a pure function.

llama.cpp splits a model by whole layers, one after the other: here first, then each worker. The
output counts as the layer after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flexinfer.sizes import format_size

# What llama.cpp's buffers come to beyond the sums that are known here.
_SLACK = 16 << 20
# A rate that is this close to the best is as good: then more layers leave this machine.
_AS_GOOD = 1.01


@dataclass(frozen=True)
class Layer:
    """What one layer needs of the memory that it lives in, in bytes.

    Attributes:
        nbytes: of its weights.
        kv: of its cache.
        largest: of its weights, which is held twice while it is sent.
    """

    nbytes: int
    kv: int
    largest: int


@dataclass(frozen=True)
class Place:
    """Memory elsewhere.

    Attributes:
        name: of the worker or the device.
        free: bytes.
        rate: bytes of weights a second that its processors go over, for one token.
        link: bytes/s.
        latency: seconds for a question and its answer.
    """

    name: str
    free: int
    rate: float
    link: float
    latency: float


@dataclass(frozen=True)
class Share:
    """What lives at one place: `layers` of them from number `first` on.

    Attributes:
        nbytes: of weights.
        seconds: of one token's way through it, with the link.
        needs: bytes of memory, for all that comes.
    """

    name: str
    first: int
    layers: int
    nbytes: int
    seconds: float
    needs: int = 0


@dataclass(frozen=True)
class Split:
    """Where all layers live.

    Attributes:
        here: how many are on this machine, between those `before` and those after them.
        before: graphics cards, in order.
        after: workers, in order.
        notes: workers without a layer, and why; what else is to be known.
    """

    here: int
    before: tuple[Share, ...] = ()
    after: tuple[Share, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Of the model, with the output as one."""
        return self.here + sum(share.layers for share in (*self.before, *self.after))

    @property
    def counts(self) -> tuple[int, ...]:
        """Layers of each device, in order."""
        return (
            *(share.layers for share in self.before),
            self.here,
            *(share.layers for share in self.after),
        )

    @property
    def away_bytes(self) -> int:
        """Bytes of weights that are not here."""
        return sum(share.nbytes for share in (*self.before, *self.after))

    @property
    def away_s(self) -> float:
        """Seconds of one token that pass elsewhere."""
        return sum(share.seconds for share in (*self.before, *self.after))

    @property
    def away(self) -> str:
        """What is not here, as part of a sentence; "" for nothing."""
        names = " and ".join(share.name for share in (*self.before, *self.after))
        return f", {format_size(self.away_bytes)} at {names}" if names else ""

    @property
    def part(self) -> str:
        """Names what is computed here; "" for all of the model."""
        return f", {self.here} of {self.layers} layers" if self.away_bytes else ""

    def is_here(self, layer: int) -> bool:
        """Whether a layer lives on this machine."""
        first = sum(share.layers for share in self.before)
        return first <= layer < first + self.here

    def longer(self, factor: float) -> Split:
        """The same, where each place takes so much longer a pass."""
        before, after = (
            tuple(replace(share, seconds=factor * share.seconds) for share in shares)
            for shares in (self.before, self.after)
        )
        return replace(self, before=before, after=after)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each place."""
        shares = (
            f"{share.layers} layers from {share.first} on, {format_size(share.nbytes)}, at "
            f"{share.name}: {1000 * share.seconds:.0f} ms a token"
            for share in (*self.before, *self.after)
        )
        return (*shares, *self.notes)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Split:
        fields = dict(document)
        for name in ("before", "after"):
            fields[name] = tuple(Share(**share) for share in fields[name])
        fields["notes"] = tuple(fields["notes"])
        return cls(**fields)


@dataclass(frozen=True)
class Payload:
    """What goes over links and into places for each token, in bytes.

    Attributes:
        hidden: between two layers.
        logits: after the output.
        compute: buffers of a place that has layers.
    """

    hidden: int
    logits: int
    compute: int


def divide(
    layers: Sequence[Layer],
    places: Sequence[Place],
    payload: Payload,
    seconds: Callable[[Split], float],
    before: tuple[Share, ...] = (),
) -> Split:
    """The split with the fastest predicted token, of those that the places have memory for.

    Args:
        layers: all, the output as the last one.
        places: the fastest first get the most.
        seconds: of one token under a split, here and elsewhere.
        before: where the first layers are, whatever that takes.
    """
    ordered = sorted(places, key=lambda place: -place.rate)
    first = sum(share.layers for share in before)
    splits = [Split(len(layers) - first, before)]
    for here in range(len(layers) - 1, first - 1, -1):
        shares = _shares(layers, ordered, payload, here)
        if sum(share.layers for share in shares) < len(layers) - here:
            break
        splits.append(Split(here - first, before, tuple(shares)))
    times = [seconds(split) for split in splits]
    good = min(times) * _AS_GOOD
    chosen = max(
        (split for split, time in zip(splits, times, strict=True) if time <= good),
        key=lambda split: -split.here,
    )
    used = {share.name for share in chosen.after}
    idle = tuple(f"worker {place.name} has no layer" for place in ordered if place.name not in used)
    return replace(chosen, notes=idle)


def _shares(
    layers: Sequence[Layer], places: Sequence[Place], payload: Payload, first: int
) -> list[Share]:
    """The layers from `first` on, filled into the places as far as these hold them."""
    shares = []
    for place in places:
        count = 0
        for stop in range(first + 1, len(layers) + 1):
            if _needs(layers[first:stop], payload) > place.free:
                break
            count += 1
        if count:
            shares.append(share_of(layers, first, count, place, payload))
            first += count
    return shares


def _needs(layers: Sequence[Layer], payload: Payload) -> int:
    weights = sum(layer.nbytes for layer in layers)
    cache = sum(layer.kv for layer in layers)
    sending = max(layer.largest for layer in layers)
    # While weights are sent, there is no context yet.
    return weights + max(cache + payload.compute, sending) + _SLACK


def share_of(
    layers: Sequence[Layer], first: int, count: int, place: Place, payload: Payload
) -> Share:
    """The share of a place that has `count` layers from `first` on."""
    held = layers[first : first + count]
    nbytes = sum(layer.nbytes for layer in held)
    back = payload.logits if first + count == len(layers) else payload.hidden
    link = place.latency + (payload.hidden + back) / place.link
    seconds = nbytes / place.rate + link
    return Share(place.name, first, count, nbytes, seconds, _needs(held, payload))
