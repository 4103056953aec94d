"""Layers on graphics cards: so many as were asked for, the first of the model, divided as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexinfer.gguf.types import QuantType
from flexinfer.native.cards import Card, cards
from flexinfer.planning.split import Layer, Payload, Place, Share, share_of
from flexinfer.workers.links import probe_device

# LLAMA_SPLIT_MODE_NONE: all on one card.
_ONE_CARD = 0


@dataclass(frozen=True)
class CardWish:
    """Under llama.cpp's names: layers (below 0: all), shares of the cards, the one of `mode` 0."""

    layers: int = 0
    tensor_split: tuple[float, ...] = ()
    main_gpu: int = 0
    mode: int = 1

    def chosen(self) -> list[tuple[Card, float]]:
        """The cards that get layers, each with its share; none where there are none, or no wish."""
        found = cards() if self.layers else []
        if not found:
            return []
        if self.mode == _ONE_CARD:
            return [(found[min(max(self.main_gpu, 0), len(found) - 1)], 1.0)]
        shares = list(self.tensor_split[: len(found)])
        shares += [0.0] * (len(found) - len(shares))
        if not sum(shares):
            # As llama.cpp does without: by what is free.
            shares = [float(card.free or 1) for card in found]
        return [(card, share) for card, share in zip(found, shares, strict=True) if share > 0]


def wished(options: Mapping[str, Any]) -> CardWish | None:
    """What arguments of `flexinfer.Llama` wish for; None where nothing, or no card is here."""
    wish = CardWish(
        options.get("n_gpu_layers") or 0,
        tuple(options.get("tensor_split") or ()),
        options.get("main_gpu", 0),
        options.get("split_mode", 1),
    )
    return wish if wish.chosen() else None


def card_shares(
    wish: CardWish | None, layers: Sequence[Layer], payload: Payload, kind: QuantType
) -> tuple[Share, ...]:
    """Which of `layers` each card has, from the first on."""
    if wish is None:
        return ()
    chosen = wish.chosen()
    most = len(layers) if wish.layers < 0 else min(wish.layers, len(layers))
    total = sum(share for _, share in chosen)
    shares, first, given = [], 0, 0.0
    for card, part in chosen:
        given += part
        count = round(most * given / total) - first
        if count > 0:
            link = probe_device(card.address, kind)
            place = Place(card.name, card.free, link.rate, link.link, link.latency)
            shares.append(share_of(layers, first, count, place, payload))
            first += count
    return tuple(shares)
