"""What MODEL may be on the command line: a file here, or a reference to the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flexinfer.gguf.estimate import KV_TYPES, needs_flash_attention

if TYPE_CHECKING:
    from flexinfer.gguf.catalogue import Catalogue

_LEAST_CONTEXT = 512
_LEAST_UBATCH = 32


def catalogue_of(model: str) -> Catalogue:
    """The header of `model`, read from the file or from the hub."""
    from flexinfer.gguf.catalogue import read_catalogue
    from flexinfer.hub import hub

    if hub.is_reference(model):
        return hub.read_remote(hub.locate(model))
    return read_catalogue(model)


def local_model(model: str, engine: dict[str, Any]) -> Catalogue:
    """The header of `model` here; what is on the hub is downloaded once it is known to fit.

    Args:
        engine: what `engine_options` collected.

    Raises:
        BudgetError: the model cannot run in this budget; nothing was downloaded.
    """
    from flexinfer.gguf.catalogue import read_catalogue
    from flexinfer.hub import hub

    if not hub.is_reference(model):
        return read_catalogue(model)
    choice = hub.locate(model)
    _require_fit(hub.read_remote(choice), engine)
    path = hub.download(choice)
    click.echo(f"{model} is {path}", err=True)
    return read_catalogue(path)


def _require_fit(catalogue: Catalogue, engine: dict[str, Any]) -> None:
    from flexinfer.gguf.estimate import estimate_costs, estimate_weights
    from flexinfer.machine.machine import Machine
    from flexinfer.planning.plan import Rates, Request
    from flexinfer.planning.planner import plan

    machine = Machine.detect()
    kind, flash = KV_TYPES[engine["kv_type"]], engine["flash_attn"]
    costs = estimate_costs(
        catalogue,
        (kind, kind),
        flash_attention=flash or needs_flash_attention(engine["kv_type"]),
    )
    request = Request(
        budget=engine["memory"] or machine.default_budget,
        ctx=_LEAST_CONTEXT,
        ubatch=_LEAST_UBATCH,
        weight_memory=engine["weight_memory"],
    )
    # Whether it fits does not depend on rates.
    weights = estimate_weights(catalogue, engine["threads"] or machine.cores)
    plan(weights, request, costs, Rates(1.0, 1.0, "given"))
