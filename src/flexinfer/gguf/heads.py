"""Blocks after a model's last layer that were trained to draft for it, and what they read.

llama.cpp computes the model without them (`n_layer` in `llama-hparams.cpp`); in a context of its
own such a head drafts from the model's last hidden state and the token that followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from flexinfer.errors import UnsupportedError
from flexinfer.gguf.as_weight import BLOCK
from flexinfer.gguf.catalogue import Catalogue

_COUNT = "nextn_predict_layers"
# These mean something else by the same number (`granite-switch.cpp`).
_ROUTES = ("graniteswitch",)
# Architectures, with how many heads llama.cpp takes (`src/models`), whose graph computes all rows
# of its last layer, with a head and without: so the head changes no bit.
_DRAFTING = {"cohere2moe": 1, "hy_v3": 8, "step35": 8}
# Without a head these compute only those rows of it that have logits, by other kernels.
_NARROWED = ("deepseek2", "deepseek32", "glm-dsa", "glm4moe", "mimo2")


def heads_of(catalogue: Catalogue) -> int:
    """How many heads the file has."""
    found = catalogue.parameter(_COUNT, 0)
    return 0 if _first(catalogue) is None else int(found)


def trunk_of(catalogue: Catalogue) -> Catalogue:
    """The model without what only a head of it reads."""
    first = _first(catalogue)
    return catalogue if first is None else _with(catalogue, lambda block: block < first)


def head_of(catalogue: Catalogue) -> Catalogue:
    """What drafting with a head reads: its blocks, and what it shares with the model.

    Raises:
        UnsupportedError: there is none, or none that llama.cpp drafts with as it is.
    """
    first, why = _first(catalogue), _refusal(catalogue)
    if first is None or why is not None:
        raise UnsupportedError(
            f"{catalogue.paths[0]} {why}; give ngram, auto or the file of a smaller model"
        )
    head = _with(catalogue, lambda block: block >= first)
    metadata = {**catalogue.metadata, f"{catalogue.architecture}.{_COUNT}": 0}
    return replace(head, metadata=MappingProxyType(metadata))


def _refusal(catalogue: Catalogue) -> str | None:
    """Why its head does not draft, if so."""
    first, heads, kind = _first(catalogue), heads_of(catalogue), catalogue.architecture
    if first is None or catalogue.get(f"blk.{first}.nextn.eh_proj.weight") is None:
        return "has no trained head that drafts"
    if kind in _NARROWED:
        return (
            f"({kind}) computes more rows of a prompt in its last layer where its trained head "
            "drafts, which may change bits"
        )
    if kind not in _DRAFTING:
        served = ", ".join(_DRAFTING)
        return f"({kind}) has a trained head, but only those of {served} are drafted with"
    if heads > _DRAFTING[kind]:
        return f"has {heads} trained heads, of which llama.cpp takes {_DRAFTING[kind]} for {kind}"
    return None


def _first(catalogue: Catalogue) -> int | None:
    """The number of the first block that is a head's, where there are any."""
    blocks, heads = catalogue.parameter("block_count"), catalogue.parameter(_COUNT, 0)
    if not isinstance(blocks, int) or not isinstance(heads, int) or not 0 < heads < blocks:
        return None
    return None if catalogue.architecture in _ROUTES else blocks - heads


def _with(catalogue: Catalogue, wanted: Callable[[int], bool]) -> Catalogue:
    """The catalogue with the tensors of no block, and of those that are wanted."""
    blocks = [(info, BLOCK.search(info.name)) for info in catalogue.tensors]
    kept = tuple(info for info, block in blocks if block is None or wanted(int(block[1])))
    return replace(catalogue, tensors=kept)
