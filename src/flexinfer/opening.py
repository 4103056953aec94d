"""Opening a model: load without reading, measure what contexts cost, plan, then create the context.

llama-cpp-python's class builds its parameters inside and calls two functions of its own module by
name: one loads the model, one creates the context. `Opening.around` wraps those two while the
class is constructed, for this thread only; it is the only patch, and it is undone on exit.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flexinfer import graph, planner
from flexinfer._ggml import CGraph, Tensor
from flexinfer.budget import Ledger
from flexinfer.device import Device, Loading, WeightTensor, device, work_size
from flexinfer.engine import Engine
from flexinfer.errors import EngineError, ModelFileError
from flexinfer.gguf import Catalogue, TensorInfo
from flexinfer.machine import process_memory
from flexinfer.operands import check_operands
from flexinfer.plan import Costs, Plan, Rates, Request, Use, Weight
from flexinfer.reader import Reader
from flexinfer.residency import Held, Residency

# What the process still grows by after the plan: programs, reader threads, the sampler, the
# binding's batch and Python's own heap. Measured as the difference to what was settled.
GROWTH = 20 << 20
_SLICE_ROWS = 16
_FLOATS = frozenset({"f32", "f16", "bf16"})
_ALL_LAYERS = 0x7FFFFFFF
_BLOCK = re.compile(r"\bblk\.(\d+)\.(.+?)(?:\.weight)?\Z")


@dataclass(frozen=True)
class Options:
    """How a model is to be opened; see `flexinfer.Llama` for the meaning.

    `memlock` is how many bytes may be locked with mlock, None when there is no limit.
    """

    budget: int
    strategy: str = "flex"
    weight_memory: int | None = None
    window: int | None = None
    logits_all: bool = False
    min_ctx: int = 512
    memlock: int | None = None


@dataclass
class _Measured:
    """What one trial context showed, in bytes."""

    kv: int
    compute: int
    work: int


class Opening:
    """One model on its way from file to engine.

    Args:
        catalogue: of the model's files.
        options: budget and strategy.
        ledger: of the process.
        open_reader: makes the reader of the model's files once the plan is known.
        rates: of drive and processor, asked once the weights are known.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        options: Options,
        ledger: Ledger,
        open_reader: Callable[[bool], Reader],
        rates: Callable[[Sequence[Weight]], Rates],
    ) -> None:
        self.engine: Engine | None = None
        self.plan: Plan | None = None
        self._catalogue = catalogue
        self._options = options
        self._ledger = ledger
        self._open_reader = open_reader
        self._rates = rates
        self._device: Device = device()
        self._loading: Loading | None = None
        self._uses: dict[int, Use] = {}
        self._routing: dict[int, graph.ExpertUse] = {}
        self._measured: dict[tuple[int, int], _Measured] = {}
        self._began = process_memory()
        self._overhead = 0

    def close(self) -> None:
        """Give the accounts back; the contexts and the model must be freed before."""
        self._ledger.release("overhead", self._overhead)
        self._overhead = 0
        if self.engine is not None:
            self._device.disown(self.engine)
            self.engine.close()

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """While entered, models and contexts that this thread creates are this opening's."""
        import llama_cpp.llama_cpp as binding

        me = threading.get_ident()
        load, create = binding.llama_model_load_from_file, binding.llama_init_from_model

        def load_ours(path: bytes, params: Any) -> Any:
            if threading.get_ident() != me:
                return load(path, params)
            return self._load(binding, load, path, params)

        def create_ours(model: Any, params: Any) -> Any:
            if threading.get_ident() != me:
                return create(model, params)
            return self._create(binding, create, model, params)

        with _patching:
            binding.llama_model_load_from_file = load_ours
            binding.llama_init_from_model = create_ours
            try:
                yield
            finally:
                binding.llama_model_load_from_file = load
                binding.llama_init_from_model = create

    # -- loading ------------------------------------------------------------------------------

    def _load(self, binding: Any, load: Callable[..., Any], path: bytes, params: Any) -> Any:
        params.devices = self._device.device_list
        params.n_gpu_layers = _ALL_LAYERS
        params.split_mode = 1  # LLAMA_SPLIT_MODE_LAYER
        params.load_mode = 0  # LLAMA_LOAD_MODE_NONE
        params.lazy_mode = 0
        params.use_extra_bufts = False
        params.no_host = False
        with self._device.loading() as loading:
            model = self._attempt(lambda: load(path, params), binding.llama_model_free)
        if model is None:
            raise ModelFileError(
                f"{os.fsdecode(path)}: llama.cpp does not load this model "
                f"(architecture {self._catalogue.architecture}); run with verbose=True to see why"
            )
        self._loading = loading
        return model

    def _attempt(self, call: Callable[[], Any], undo: Callable[[Any], object]) -> Any:
        return self._device.attempt(call, self._catalogue.paths[0], undo)

    # -- planning -----------------------------------------------------------------------------

    def _create(self, binding: Any, create: Callable[..., Any], model: Any, params: Any) -> Any:
        if self._loading is None or not self._loading.weights:
            return create(model, params)
        if self.engine is None:
            self._open_engine(binding, create, model, params)
        return self._attempt(lambda: create(model, params), binding.llama_free)

    def _open_engine(
        self, binding: Any, create: Callable[..., Any], model: Any, params: Any
    ) -> None:
        assert self._loading is not None
        # The first model bears what the process was before it; later ones what they add.
        base = process_memory() - (self._began if self._ledger.used else 0)
        threads = max(params.n_threads, params.n_threads_batch)
        vocabulary = binding.llama_vocab_n_tokens(binding.llama_model_get_vocab(model))

        def costs(ctx: int, ubatch: int) -> Costs:
            measured = self._measure(binding, create, model, params, ctx, ubatch)
            rows = sum(
                min(ubatch * (info.row_bytes + 8192), info.nbytes)
                for tensor, info in found
                if self._uses.get(tensor.address) is Use.ROWS
            )
            gathered = max(
                (
                    ubatch * 4 * 2 * sum(info.shape[:2])
                    for tensor, info in found
                    if self._uses.get(tensor.address) is Use.EXPERTS
                ),
                default=0,
            )
            logits = 4 * vocabulary * ctx if self._options.logits_all else 0
            overhead = base + GROWTH + measured.work + rows + gathered + logits
            return Costs(overhead, measured.kv, measured.compute)

        found = self._find_weights()
        self._measure(binding, create, model, params, params.n_ctx, params.n_ubatch)
        ordered = self._in_graph_order(found)
        weights = [self._weight(tensor, info, threads) for tensor, info in ordered]
        request = Request(
            budget=self._options.budget,
            ctx=params.n_ctx,
            ubatch=params.n_ubatch,
            strategy=self._options.strategy,
            weight_memory=self._options.weight_memory,
            window=self._options.window,
            min_ctx=min(self._options.min_ctx, params.n_ctx),
        )
        plan = planner.plan(weights, request, costs, self._rates(weights))
        params.n_ctx, params.n_ubatch = plan.ctx, plan.ubatch
        self.plan = plan
        self._carry_out(
            plan,
            [
                Held(tensor.address, Tensor.from_address(tensor.address).data, info, weight)
                for (tensor, info), weight in zip(ordered, weights, strict=True)
            ],
        )

    def _carry_out(self, plan: Plan, held: list[Held]) -> None:
        assert self._loading is not None
        self._overhead = plan.costs.overhead
        self._ledger.charge("overhead", self._overhead)
        interrupted: list[Engine] = []
        memlock = self._options.memlock
        residency = Residency(
            held,
            plan,
            self._open_reader(plan.resident),
            lambda: interrupted[0].check(),
            pinned=memlock is None or memlock >= plan.held_bytes,
        )
        self.engine = Engine(residency, self._ledger)
        interrupted.append(self.engine)
        self._device.own(self._loading, self.engine)

    def _find_weights(self) -> list[tuple[WeightTensor, TensorInfo]]:
        assert self._loading is not None
        by_name = {info.name: info for info in self._catalogue.tensors}
        found = []
        for tensor in self._loading.weights:
            info = by_name.get(tensor.name)
            if info is None or info.nbytes != tensor.nbytes:
                raise ModelFileError(
                    f"{self._catalogue.paths[0]}: llama.cpp wants {tensor.nbytes} bytes for "
                    f"{tensor.name}, the file has {info.nbytes if info else 'no such tensor'}"
                )
            found.append((tensor, info))
        return found

    def _in_graph_order(
        self, found: list[tuple[WeightTensor, TensorInfo]]
    ) -> list[tuple[WeightTensor, TensorInfo]]:
        """Weights that no reserved graph uses come last: they may never be read."""
        order = {address: number for number, address in enumerate(self._uses)}
        return sorted(found, key=lambda pair: order.get(pair[0].address, len(order)))

    def _weight(self, tensor: WeightTensor, info: TensorInfo, threads: int) -> Weight:
        use = self._uses.get(tensor.address, Use.IDLE)
        block = _BLOCK.search(info.name)
        step = _SLICE_ROWS * threads if use is Use.MATMUL else 0
        if info.type.name in _FLOATS and info.rows % 4:
            step = 0
        return Weight(
            name=info.name,
            nbytes=info.nbytes,
            rows=info.rows,
            use=use,
            row_step=step if info.rows > step else 0,
            layer=int(block[1]) if block else None,
            role=block[2] if block else None,
            **self._expert_fields(tensor, use),
        )

    def _expert_fields(self, tensor: WeightTensor, use: Use) -> dict[str, int]:
        routing = self._routing.get(tensor.address)
        if routing is None or use is not Use.EXPERTS:
            return {}
        groups = sorted(
            {
                routing.group
                for address, routing in self._routing.items()
                if self._uses[address] is Use.EXPERTS
            }
        )
        experts = tensor.shape[2]
        return {"experts": experts, "used": routing.used, "group": groups.index(routing.group)}

    # -- measuring ----------------------------------------------------------------------------

    def _measure(
        self,
        binding: Any,
        create: Callable[..., Any],
        model: Any,
        params: Any,
        ctx: int,
        ubatch: int,
    ) -> _Measured:
        """Create a context of that size whose buffers are address space, and add them up."""
        known = self._measured.get((ctx, ubatch))
        if known is not None:
            return known
        trial = type(params).from_buffer_copy(params)
        trial.n_ctx, trial.n_ubatch = ctx, ubatch
        threads = max(params.n_threads, params.n_threads_batch)
        work = 0

        def on_graph(address: int) -> None:
            nonlocal work
            work = max(work, work_size(CGraph.from_address(address), threads))
            self._note_uses(address)

        with self._device.measuring(on_graph) as measuring:
            context = self._attempt(lambda: create(model, trial), binding.llama_free)
            if context is None:
                raise EngineError(
                    f"llama.cpp creates no context of {ctx} tokens for this model; "
                    "run with verbose=True to see why"
                )
            measuring.collect()
            binding.llama_free(context)
        measured = _Measured(measuring.other, measuring.compute, work)
        self._measured[ctx, ubatch] = measured
        return measured

    def _note_uses(self, graph_address: int) -> None:
        assert self._loading is not None
        weights = {weight.address: weight for weight in self._loading.weights}
        nodes = graph.read_nodes(graph_address)
        check_operands(nodes, weights, self._catalogue.paths[0])
        graph.note_expert_uses(nodes, weights, self._routing)
        for address, use in graph.weight_uses(nodes, weights).items():
            known = self._uses.setdefault(address, use)
            if known is not use:
                self._uses[address] = (
                    Use.MATMUL if {known, use} == {Use.MATMUL, Use.ROWS} else Use.WHOLE
                )


class ContextMemory:
    """The ledger as the device sees it: KV caches, compute buffers and adapters of all models."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def allocating(self, nbytes: int) -> None:
        self.ledger.charge("contexts", nbytes)

    def freed(self, nbytes: int) -> None:
        self.ledger.release("contexts", nbytes)


def process_ledger(limit: int | None) -> Ledger:
    """The ledger of this process: the first limited model sets it, later ones share it."""
    known = device().allocations
    if isinstance(known, ContextMemory) and known.ledger.used:
        if known.ledger.limit is None:
            known.ledger.limit = limit
        return known.ledger
    ledger = Ledger(limit)
    device().allocations = ContextMemory(ledger)
    return ledger


_patching = threading.RLock()
