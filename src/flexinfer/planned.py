"""The plan of a model, and of one that drafts for it, from headers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from flexinfer.foretell import Arguments, Sizes, forecast, foretell_rows
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.estimate import PROCESS
from flexinfer.gguf.same_vocabulary import check_same_vocabulary
from flexinfer.kinds import plain
from flexinfer.machine.machine import Machine
from flexinfer.planning.drafted import BELIEF, MOST, NAMES, OFF
from flexinfer.planning.pair import DRAFT_UBATCH, Believed, Pair, plan_pair
from flexinfer.planning.plan import LEAST_CONTEXT, Plan
from flexinfer.workers.endpoint import read_endpoints


def plan(
    model: str | os.PathLike[str] | Catalogue,
    *,
    memory: str | int | None = None,
    weight_memory: str | int | None = None,
    strategy: str = "flex",
    window: str | int | None = None,
    n_ctx: int = Sizes.n_ctx,
    n_batch: int = 512,
    n_ubatch: int = 512,
    min_ctx: int = LEAST_CONTEXT,
    n_threads: int | None = None,
    type_k: int | None = None,
    type_v: int | None = None,
    flash_attn: bool | None = False,
    logits_all: bool = False,
    repack: bool | None = None,
    rpc: str | Sequence[str] = (),
    n_gpu_layers: int = 0,
    split_mode: int = 1,
    main_gpu: int = 0,
    tensor_split: Sequence[float] | None = None,
    mirrors: Sequence[str | os.PathLike[str]] = (),
    draft: str = OFF,
) -> Plan:
    """The plan that `flexinfer.Llama` with the same arguments makes; no model is opened.

    Costs are estimates, and rates of drive and processor are remembered or measured. A budget
    larger than this machine is taken as it is. `model` may be a header; see `Llama` for the rest.

    Raises:
        ModelFileError, UnsupportedError: the model cannot be run.
        BudgetError, RequestError: it does not fit; there is no such strategy or KV cache.
    """
    given = plain(locals())
    model, workers = given["model"], given["rpc"]
    given["rpc"] = read_endpoints(workers) if workers else ()
    catalogue = model if isinstance(model, Catalogue) else read_catalogue(model)
    return _planned(catalogue, Arguments.of(given))


def _planned(catalogue: Catalogue, arguments: Arguments) -> Plan:
    machine = Machine.detect()
    if arguments.draft in NAMES:
        return forecast(catalogue, arguments, machine).plan()
    return pair(catalogue, read_catalogue(arguments.draft), arguments, machine).target


def pair(
    catalogue: Catalogue,
    draft: Catalogue,
    arguments: Arguments,
    machine: Machine,
    acceptance: float = BELIEF,
    beyond: int = 0,
) -> Pair:
    """The plans of a model and of one that drafts for it, within the budget of `arguments`.

    The context of the draft holds what the model's does, as far as it was trained.

    Args:
        acceptance: the share of drafted tokens that is believed to be right.
        beyond: bytes of this process that no plan expects of one.

    Raises:
        ModelFileError, UnsupportedError, BudgetError: as `plan`.
        RequestError: as `plan`; or the two do not write the same tokens.
    """
    check_same_vocabulary(catalogue, draft)
    main = forecast(catalogue, arguments, machine)
    times = foretell_rows(catalogue, main, arguments)
    beside = forecast(draft, draft_arguments(draft, arguments, main.plan().ctx), machine)
    return plan_pair(main, beside, Believed(times, acceptance, MOST), PROCESS - beyond)


def draft_arguments(draft: Catalogue, arguments: Arguments, ctx: int) -> Arguments:
    """How a model is opened that drafts for one that was asked for with `arguments`."""
    trained = draft.parameter("context_length", ctx)
    ctx = min(ctx, trained) if isinstance(trained, int) and trained > 0 else ctx
    batch = min(DRAFT_UBATCH, arguments.sizes.n_ubatch, ctx)
    return replace(
        arguments,
        strategy="flex",
        window=None,
        sizes=Sizes(ctx, batch, batch, ctx),
        type_k=None,
        type_v=None,
        flash_attn=None,
        logits_all=False,
        rpc=(),
        n_gpu_layers=0,
        tensor_split=None,
        mirrors=(),
        draft=OFF,
    )
