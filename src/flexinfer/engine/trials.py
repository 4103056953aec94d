"""Trial contexts: what a context costs, and how its graphs use each weight, before either exists.

llama.cpp reserves its graphs and buffers when it creates a context. Here the buffers are address
space, so any context can be created, looked at and freed again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from flexinfer.errors import EngineError, ModelFileError
from flexinfer.gguf.as_weight import (
    GROWTH,
    as_weight,
    encoded_bytes,
    gathered_bytes,
    looked_up_bytes,
)
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.types import TensorInfo
from flexinfer.native.device.backends import work_size
from flexinfer.native.device.device import device
from flexinfer.native.device.phases import Loading, WeightTensor
from flexinfer.native.graph.check_nodes import check_operands
from flexinfer.native.graph.nodes import read_nodes
from flexinfer.native.graph.uses import (
    ExpertUse,
    looked_up,
    not_times_f32,
    note_expert_uses,
    weight_uses,
)
from flexinfer.native.mirror import CGraph, Tensor
from flexinfer.native.packing import Packer, Packing
from flexinfer.planning.plan import Costs
from flexinfer.planning.weights import Use, Weight
from flexinfer.storage.layouts import Held

_F32 = 4


@dataclass(frozen=True)
class Trial:
    """What one trial context showed, in bytes; `work` is the processor backend's scratch."""

    kv: int
    compute: int
    work: int


@dataclass(frozen=True)
class Outputs:
    """What a context hands out at its first batch, not when it is created.

    Attributes:
        vocabulary: logits of one token.
        width: numbers of an embedding.
        batch: tokens of the largest batch.
        encodes: the model has an encoder, which hands out embeddings as well.
        logits_all: the logits of every token are asked for, and kept.
        rows: of logits that are asked for at once, where not all are.
    """

    vocabulary: int
    width: int
    batch: int
    encodes: bool
    logits_all: bool
    rows: int = 0

    def of_context(self, ctx: int, ubatch: int) -> int:
        """Bytes that the context allocates."""
        if self.encodes:
            return encoded_bytes(self.vocabulary, self.width, ubatch)
        rows = min(self.batch, ctx) if self.logits_all else self.rows
        return _F32 * self.vocabulary * rows

    def kept(self, ctx: int) -> int:
        """Bytes of all logits of a full context, which the binding keeps."""
        return _F32 * self.vocabulary * ctx if self.logits_all else 0


class Trials:
    """Contexts of one model, created to be measured.

    Args:
        create: a context from parameters; None when llama.cpp refuses.
        free: what `create` returned.
        params: ``llama_context_params`` as asked for.
        loading: what the load declared.
        catalogue: of the model's files.
        packer: packs the weights that it has kernels for; None: all are computed as they are.
        unread: names of weights that no graph of these contexts will ever read.

    Raises:
        ModelFileError: the file does not have a weight that llama.cpp wants.
    """

    def __init__(
        self,
        create: Callable[[Any], Any],
        free: Callable[[Any], object],
        params: Any,
        loading: Loading,
        catalogue: Catalogue,
        packer: Packer | None = None,
        unread: Container[str] = (),
    ) -> None:
        self._packer = packer
        self._create = create
        self._free = free
        self._params = params
        self._threads: int = max(params.n_threads, params.n_threads_batch)
        self._path = catalogue.paths[0]
        self._known: dict[tuple[int, int], Trial] = {}
        self._uses: dict[int, Use] = {}
        self._looked_up: set[int] = set()
        self._unpacked: set[int] = set()
        self._routing: dict[int, ExpertUse] = {}
        self._tensors = {weight.address: weight for weight in loading.weights}
        wanted = [weight for weight in loading.weights if weight.name not in unread]
        self._found = self._find(wanted, catalogue)

    def run(self, ctx: int, ubatch: int) -> Trial:
        """Create a context of that size whose buffers are address space, and add them up.

        Raises:
            EngineError: llama.cpp creates none.
            ModelFileError: a graph would make it abort.
        """
        known = self._known.get((ctx, ubatch))
        if known is not None:
            return known
        params = type(self._params).from_buffer_copy(self._params)
        params.n_ctx, params.n_ubatch = ctx, ubatch
        work = 0

        def on_graph(address: int) -> None:
            nonlocal work
            work = max(work, work_size(CGraph.from_address(address), self._threads))
            self._note_uses(address)

        with device().measuring(on_graph) as measuring:
            context = self._create(params)
            if context is None:
                raise EngineError(
                    f"llama.cpp creates no context of {ctx} tokens for this model; "
                    "-v (verbose=True) says why"
                )
            measuring.collect()
            self._free(context)
        trial = Trial(measuring.other, measuring.compute, work)
        self._known[ctx, ubatch] = trial
        return trial

    def costs(self, ctx: int, ubatch: int, base: int, outputs: Outputs) -> Costs:
        """What a context of that size costs in a process of `base` bytes."""
        trial = self.run(ctx, ubatch)
        extra = trial.work + self.batch_bytes(ubatch) + outputs.kept(ctx)
        kv = trial.kv + outputs.of_context(ctx, ubatch)
        return Costs(base + GROWTH + extra, kv, trial.compute)

    def batch_bytes(self, ubatch: int) -> int:
        """Bytes that rows of embeddings and of experts take in a batch."""
        tables = (info for tensor, info in self._found if tensor.address in self._looked_up)
        experts = (
            info for tensor, info in self._found if self._uses.get(tensor.address) is Use.EXPERTS
        )
        return looked_up_bytes(tables, ubatch) + gathered_bytes(experts, ubatch)

    def weights(self) -> tuple[list[Weight], list[Held]]:
        """All weights in the order of the graphs, for the planner and for residency.

        Those that no graph uses come last: they may never be read.
        """
        order = {address: number for number, address in enumerate(self._uses)}
        ordered = sorted(self._found, key=lambda pair: order.get(pair[0].address, len(order)))
        weights = [self._weight(tensor, info) for tensor, info in ordered]
        return weights, [
            self._held(tensor, info, weight)
            for (tensor, info), weight in zip(ordered, weights, strict=True)
        ]

    def _held(self, tensor: WeightTensor, info: TensorInfo, weight: Weight) -> Held:
        address = tensor.address
        absent = Tensor.from_address(address).data
        looked_up = address in self._looked_up
        return Held(address, absent, info, weight, self._packing(tensor), looked_up)

    def _packing(self, tensor: WeightTensor) -> Packing | None:
        """How a weight is packed that is only multiplied with; as llama.cpp's loader decides."""
        use, address = self._uses.get(tensor.address), tensor.address
        if self._packer is None or address in self._unpacked:
            return None
        if use is Use.MATMUL or (use is Use.EXPERTS and tensor.shape[2] > 1):
            return self._packer.packing(address)
        return None

    def _find(
        self, wanted: Sequence[WeightTensor], catalogue: Catalogue
    ) -> list[tuple[WeightTensor, TensorInfo]]:
        by_name = {info.name: info for info in catalogue.tensors}
        found = []
        for tensor in wanted:
            info = by_name.get(tensor.name)
            if info is None or info.nbytes != tensor.nbytes:
                raise ModelFileError(
                    f"{self._path}: llama.cpp wants {tensor.nbytes} bytes for "
                    f"{tensor.name}, the file has {info.nbytes if info else 'no such tensor'}"
                )
            found.append((tensor, info))
        return found

    def _weight(self, tensor: WeightTensor, info: TensorInfo) -> Weight:
        use = self._uses.get(tensor.address, Use.IDLE)
        return as_weight(info, use, self._threads, **self._expert_fields(tensor, use))

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

    def _note_uses(self, graph_address: int) -> None:
        nodes = read_nodes(graph_address)
        check_operands(nodes, self._tensors, self._path)
        note_expert_uses(nodes, self._tensors, self._routing)
        self._looked_up |= looked_up(nodes, self._tensors)
        self._unpacked |= not_times_f32(nodes, self._tensors)
        for address, use in weight_uses(nodes, self._tensors).items():
            known = self._uses.setdefault(address, use)
            if known is not use:
                self._uses[address] = (
                    Use.MATMUL if {known, use} == {Use.MATMUL, Use.ROWS} else Use.WHOLE
                )
