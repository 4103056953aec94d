"""A plan from a header alone: what opening a model, or a command, will come to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from flexinfer.gguf.architectures import check_architecture
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.check_metadata import check_parameters
from flexinfer.gguf.estimate import estimate_costs, estimate_weights, kv_types
from flexinfer.gguf.mirrors import find_mirrors
from flexinfer.kinds import WHOLE, check_whole
from flexinfer.machine.budget import wished_budget
from flexinfer.machine.machine import Machine
from flexinfer.planning.drafted import OFF, rows_of, with_steady_batch
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes
from flexinfer.planning.plan import LEAST_CONTEXT, MIN_UBATCH, Costs, CostsOf, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.split import Split
from flexinfer.planning.strategies import check_strategy
from flexinfer.rates.drives import drives_for
from flexinfer.rates.kernels import kernels_for
from flexinfer.rates.rates import measure_rates, remembered_rows
from flexinfer.rates.row_times import row_times
from flexinfer.sizes import optional_size
from flexinfer.workers.cards import wished
from flexinfer.workers.dividing import divided
from flexinfer.workers.endpoint import plain_over, read_endpoints

_CONTEXT = 512
_STEP = 256


@dataclass(frozen=True)
class Sizes:
    """Context and batches in tokens, under the names that `flexinfer.Llama` has for them."""

    n_ctx: int = _CONTEXT
    n_batch: int = 512
    n_ubatch: int = 512
    min_ctx: int = LEAST_CONTEXT

    def __post_init__(self) -> None:
        """Raise `RequestError` for what is no number of tokens."""
        for size in fields(self):
            check_whole(size.name, getattr(self, size.name), *WHOLE[size.name])


@dataclass(frozen=True)
class Arguments:
    """Those arguments of `flexinfer.Llama` that a plan depends on; see there, and `plan`."""

    memory: str | int | None = None
    weight_memory: str | int | None = None
    strategy: str = "flex"
    window: str | int | None = None
    sizes: Sizes = Sizes()
    n_threads: int | None = None
    type_k: int | None = None
    type_v: int | None = None
    flash_attn: bool | None = False
    logits_all: bool = False
    repack: bool | None = None
    rpc: tuple[str, ...] = ()
    n_gpu_layers: int = 0
    split_mode: int = 1
    main_gpu: int = 0
    tensor_split: Sequence[float] | None = None
    mirrors: Sequence[str | os.PathLike[str]] = ()
    draft: str = OFF

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Arguments:
        """Those among arguments of `flexinfer.Llama`; `rpc` as read."""
        sizes = {field.name: given[field.name] for field in fields(Sizes) if field.name in given}
        known = {field.name for field in fields(cls)} & set(given)
        return cls(**{name: given[name] for name in known}, sizes=Sizes(**sizes))

    def budget(self, machine: Machine) -> int:
        """Bytes of the process; by default what is available less a margin."""
        asked = None if self.memory == "auto" else self.memory
        return machine.default_budget if asked is None else wished_budget(asked, machine)

    @property
    def kv_types(self) -> tuple[int, int]:
        """ggml's numbers of the types of K and V.

        Raises:
            RequestError: llama.cpp has no such cache, or not without flash attention.
        """
        return kv_types(self.type_k, self.type_v, self.flash_attn)


def forecast(
    catalogue: Catalogue, arguments: Arguments, machine: Machine, rates: Rates | None = None
) -> Forecast:
    """What the model does on `machine` under any budget; `rates` are measured by default.

    Raises:
        ModelFileError, UnsupportedError, RequestError: as `plan`.
    """
    check_strategy(arguments.strategy)
    check_architecture(catalogue)
    check_parameters(catalogue)
    cores = arguments.n_threads or machine.cores
    weights = estimate_weights(catalogue, cores)
    ctx = arguments.sizes.n_ctx or catalogue.parameter("context_length", 0) or _CONTEXT
    batch = min(arguments.sizes.n_batch, ctx)
    costs = _costs(catalogue, arguments, batch)
    if rates is None:
        drives = drives_for(catalogue, find_mirrors(catalogue, arguments.mirrors))
        repack = plain_over(arguments.rpc, arguments.repack)
        kernels = kernels_for(catalogue, machine, repack, drives.packed)
        weights, rates = measure_rates(catalogue, weights, drives, cores, kernels)
        costs = drives.costing(costs)
    request = Request(
        budget=arguments.budget(machine),
        ctx=ctx,
        ubatch=min(arguments.sizes.n_ubatch or batch, batch),
        strategy=arguments.strategy,
        weight_memory=optional_size(arguments.weight_memory),
        window=optional_size(arguments.window),
        min_ctx=min(arguments.sizes.min_ctx, ctx),
    )
    if arguments.draft != OFF:
        plain = _costs(catalogue, replace(arguments, draft=OFF), batch)
        request = with_steady_batch(weights, request, plain, rates)
    whole = Forecast(weights, request, costs, rates)
    return divided(catalogue, whole, arguments.rpc, wished(vars(arguments)))


def foretell_split(catalogue: Catalogue, given: Mapping[str, Any]) -> Split | None:
    """Where the layers of a model go that `flexinfer.Llama` opens with the arguments `given`."""
    rpc = read_endpoints(given["rpc"]) if given["rpc"] else ()
    return forecast(catalogue, Arguments.of({**given, "rpc": rpc}), Machine.detect()).request.split


def _costs(catalogue: Catalogue, arguments: Arguments, batch: int) -> CostsOf:
    # llama.cpp takes it where it may.
    flash = arguments.flash_attn is not False
    costs = estimate_costs(catalogue, arguments.kv_types, flash_attention=flash)
    embedding = catalogue.get("token_embd.weight")
    row = 4 * (embedding.rows if embedding else 0)
    drafted = rows_of(arguments.draft)

    def with_logits(ctx: int, ubatch: int) -> Costs:
        """Scores of all positions in the class, and of a batch in the context."""
        least = costs(ctx, ubatch)
        outputs = row * min(batch, ctx)
        return replace(least, overhead=least.overhead + row * ctx, kv=least.kv + outputs)

    def with_drafts(ctx: int, ubatch: int) -> Costs:
        least = costs(ctx, ubatch)
        return replace(least, kv=least.kv + row * drafted)

    return with_logits if arguments.logits_all else with_drafts


def foretell_rows(catalogue: Catalogue, forecast: Forecast, arguments: Arguments) -> RowTimes:
    """How long passes over several rows take here: remembered, or measured within a second."""
    threads = arguments.n_threads or Machine.detect().cores
    kv = arguments.kv_types
    seen = remembered_rows(catalogue, threads, forecast.rates.kernels)
    return row_times(forecast.weights, catalogue.types, forecast.rates, threads, kv, seen)


def require_fit(catalogue: Catalogue, arguments: Arguments) -> None:
    """Raise what opening the model would, whatever context and batch a command asks for.

    Raises:
        ModelFileError, UnsupportedError, RequestError, BudgetError: as `plan`.
    """
    least = replace(arguments, sizes=Sizes(_STEP, MIN_UBATCH, MIN_UBATCH))
    # Whether it fits does not depend on rates.
    forecast(catalogue, least, Machine.detect(), Rates(1.0, 1.0, "given")).plan()
