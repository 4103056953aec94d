"""A plan from a header alone: what opening a model, or a command, will come to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexinfer.errors import RequestError
from flexinfer.gguf.architectures import check_architecture
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.check_metadata import check_parameters
from flexinfer.gguf.estimate import (
    KV_TYPES,
    estimate_costs,
    estimate_weights,
    needs_flash_attention,
)
from flexinfer.machine.budget import wished_budget
from flexinfer.machine.machine import Machine
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes
from flexinfer.planning.plan import LEAST_CONTEXT, MIN_UBATCH, Costs, CostsOf, Plan, Request
from flexinfer.planning.rates import Rates
from flexinfer.planning.strategies import check_strategy
from flexinfer.rates.kernels import kernels_for
from flexinfer.rates.rates import drive_for, measure_rates
from flexinfer.rates.row_times import row_times
from flexinfer.sizes import optional_size
from flexinfer.workers.cards import wished
from flexinfer.workers.dividing import divided
from flexinfer.workers.endpoint import plain_over, read_endpoints

_CONTEXT = 512
# Of an answer, so much is to have room whatever the budget.
_RUN_ANSWER = 128
_RUN_STEP = 256
_RUN_UBATCH = 512
_CHAT_CONTEXT = 4096
_CHAT_UBATCH = 128


@dataclass(frozen=True)
class Sizes:
    """Context and batches in tokens, under the names that `flexinfer.Llama` has for them."""

    n_ctx: int = _CONTEXT
    n_batch: int = 512
    n_ubatch: int = 512
    min_ctx: int = LEAST_CONTEXT


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
        kinds = tuple(KV_TYPES["f16"] if t is None else t for t in (self.type_k, self.type_v))
        names = {number: name for name, number in KV_TYPES.items()}
        for kind in kinds:
            if kind not in names:
                known = ", ".join(f"{number} ({name})" for number, name in names.items())
                raise RequestError(f"there is no KV cache of type {kind}; take one of {known}")
        if needs_flash_attention(names[kinds[1]]) and self.flash_attn is False:
            raise RequestError(
                f"values of type {names[kinds[1]]} need flash attention; give flash_attn=True"
            )
        return kinds[0], kinds[1]


def plan(
    model: str | os.PathLike[str] | Catalogue,
    *,
    memory: str | int | None = None,
    weight_memory: str | int | None = None,
    strategy: str = "flex",
    window: str | int | None = None,
    n_ctx: int = _CONTEXT,
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
) -> Plan:
    """The plan that `flexinfer.Llama` with the same arguments makes; no model is opened.

    Costs are estimates, and rates of drive and processor are remembered or measured. A budget
    larger than this machine is taken as it is. `model` may be a header; see `Llama` for the rest.

    Raises:
        ModelFileError, UnsupportedError: the model cannot be run.
        BudgetError, RequestError: it does not fit; there is no such strategy or KV cache.
    """
    catalogue = model if isinstance(model, Catalogue) else read_catalogue(model)
    held = (memory, weight_memory, strategy, window)
    sizes = Sizes(n_ctx, n_batch, n_ubatch, min_ctx)
    computed = (n_threads, type_k, type_v)
    cards = (n_gpu_layers, split_mode, main_gpu)
    given = Arguments(*held, sizes, *computed, flash_attn, logits_all, repack, (), *cards)
    given = replace(given, rpc=read_endpoints(rpc) if rpc else (), tensor_split=tensor_split)
    return forecast(catalogue, given, Machine.detect()).plan()


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
    if rates is None:
        kernels = kernels_for(catalogue, machine, plain_over(arguments.rpc, arguments.repack))
        weights, rates = measure_rates(catalogue, weights, drive_for(catalogue), cores, kernels)
    ctx = arguments.sizes.n_ctx or catalogue.parameter("context_length", 0) or _CONTEXT
    batch = min(arguments.sizes.n_batch, ctx)
    request = Request(
        budget=arguments.budget(machine),
        ctx=ctx,
        ubatch=min(arguments.sizes.n_ubatch, batch),
        strategy=arguments.strategy,
        weight_memory=optional_size(arguments.weight_memory),
        window=optional_size(arguments.window),
        min_ctx=min(arguments.sizes.min_ctx, ctx),
    )
    whole = Forecast(weights, request, _costs(catalogue, arguments, batch), rates)
    return divided(catalogue, whole, arguments.rpc, wished(vars(arguments)))


def _costs(catalogue: Catalogue, arguments: Arguments, batch: int) -> CostsOf:
    # llama.cpp takes it where it may.
    flash = arguments.flash_attn is not False
    costs = estimate_costs(catalogue, arguments.kv_types, flash_attention=flash)
    if not arguments.logits_all:
        return costs
    embedding = catalogue.get("token_embd.weight")
    row = 4 * (embedding.rows if embedding else 0)

    def with_logits(ctx: int, ubatch: int) -> Costs:
        """Scores of all positions in the class, and of a batch in the context."""
        least = costs(ctx, ubatch)
        outputs = row * min(batch, ctx)
        return replace(least, overhead=least.overhead + row * ctx, kv=least.kv + outputs)

    return with_logits


def foretell_rows(catalogue: Catalogue, forecast: Forecast, cores: int | None) -> RowTimes:
    """How long passes over several rows take here: remembered, or measured within a second."""
    threads = cores or Machine.detect().cores
    return row_times(forecast.weights, catalogue.types, forecast.rates, threads)


def require_fit(catalogue: Catalogue, arguments: Arguments) -> None:
    """Raise what opening the model would, whatever context and batch a command asks for.

    Raises:
        ModelFileError, UnsupportedError, RequestError, BudgetError: as `plan`.
    """
    least = replace(arguments, sizes=Sizes(_RUN_STEP, MIN_UBATCH, MIN_UBATCH))
    # Whether it fits does not depend on rates.
    forecast(catalogue, least, Machine.detect(), Rates(1.0, 1.0, "given")).plan()


def run_sizes(prompt: int, tokens: int, ctx: int | None = None, ubatch: int | None = None) -> Sizes:
    """What `run` asks for, by the tokens of its prompt and answer, unless it is told.

    A batch is a power of two that holds the prompt: larger would only cost compute buffers. The
    context always holds the prompt and the beginning of an answer.

    Raises:
        RequestError: the prompt does not fit the context.
    """
    if ctx is not None and prompt >= ctx:
        raise RequestError(
            f"the prompt has {prompt} tokens but the context only {ctx}; "
            f"give --ctx {prompt + tokens} or a shorter prompt"
        )
    holding = max(1 << (prompt - 1).bit_length(), MIN_UBATCH)
    batch = ubatch or min(holding, _RUN_UBATCH)
    return Sizes(
        n_ctx=ctx or -(-(prompt + tokens) // _RUN_STEP) * _RUN_STEP,
        n_batch=max(batch, min(prompt, _RUN_UBATCH)),
        n_ubatch=batch,
        min_ctx=max(prompt + min(tokens, _RUN_ANSWER), LEAST_CONTEXT),
    )


def chat_sizes(
    catalogue: Catalogue, arguments: Arguments, ctx: int | None = None, ubatch: int | None = None
) -> Sizes:
    """What `chat` asks for, unless it is told.

    The model's own context, at most 4096, halved until its cache fits half of the budget.
    """
    batch = ubatch or _CHAT_UBATCH
    return Sizes(ctx or _chat_context(catalogue, arguments), max(batch, _CHAT_UBATCH), batch)


def _chat_context(catalogue: Catalogue, arguments: Arguments) -> int:
    trained = catalogue.parameter("context_length", _CHAT_CONTEXT)
    context = min(_CHAT_CONTEXT, trained if isinstance(trained, int) else _CHAT_CONTEXT)
    costs = estimate_costs(catalogue, arguments.kv_types)
    budget = arguments.budget(Machine.detect())
    while context > LEAST_CONTEXT and costs(context, _CHAT_UBATCH).kv > budget // 2:
        context //= 2
    return context
