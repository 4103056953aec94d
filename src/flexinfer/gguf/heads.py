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
# Architectures of whose heads llama.cpp has a graph (`src/models`), with how many it takes. The
# model's own graph hands over all rows of its last layer there, with a head and without, so that
# the head changes no bit of it; others, as glm4moe, hand over fewer without.
_DRAFTING = {"cohere2moe": 1, "hy_v3": 8, "step35": 8}


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
    first, heads = _first(catalogue), heads_of(catalogue)
    path, architecture = catalogue.paths[0], catalogue.architecture
    if first is None or catalogue.get(f"blk.{first}.nextn.eh_proj.weight") is None:
        raise UnsupportedError(
            f"{path} has no trained head that drafts; give ngram, auto or the file of a smaller "
            "model"
        )
    if heads > _DRAFTING.get(architecture, 0):
        raise UnsupportedError(
            f"{path}: drafting with the trained head of {architecture} would change bits, or "
            f"llama.cpp has no graph of it; give ngram, auto or the file of a smaller model"
        )
    head = _with(catalogue, lambda block: block >= first)
    metadata = {**catalogue.metadata, f"{architecture}.{_COUNT}": 0}
    return replace(head, metadata=MappingProxyType(metadata))


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
