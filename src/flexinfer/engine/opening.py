"""Opening a model: load without reading, measure what contexts cost, plan, then create the context.

llama-cpp-python's class builds its parameters inside and calls two functions of its own module by
name: one loads the model, one creates the context. `Opening.around` wraps those two while the
class is constructed, for this thread only, and puts them back on exit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flexinfer.engine.account import Account, Share
from flexinfer.engine.elsewhere import Elsewhere
from flexinfer.engine.engine import Engine
from flexinfer.engine.interrupts import Interrupt
from flexinfer.engine.options import Options
from flexinfer.engine.patching import replaced
from flexinfer.engine.process_ledger import beside_others
from flexinfer.engine.trials import Outputs, Trials
from flexinfer.errors import EngineError, ModelFileError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.machine.descriptors import require_descriptors
from flexinfer.machine.machine import fills_processors
from flexinfer.memory.ledger import Ledger
from flexinfer.native.device.device import Device, device
from flexinfer.native.device.owners import Runner
from flexinfer.native.device.phases import Loading
from flexinfer.native.packing import listening_packer
from flexinfer.planning import planner
from flexinfer.planning.drafted import with_steady_batch
from flexinfer.planning.kernels import Kernels
from flexinfer.planning.plan import CostsOf, Plan
from flexinfer.planning.rates import Rates
from flexinfer.planning.split import Split
from flexinfer.planning.weights import Weight
from flexinfer.reading.reader import Reader
from flexinfer.reading.waiting import Waiting
from flexinfer.storage.layouts import Held
from flexinfer.storage.packed_copies import as_packed
from flexinfer.storage.residency import Residency

_ALL_LAYERS = 0x7FFFFFFF


class Opening:
    """One model on its way from file to engine.

    Args:
        catalogue: of the model's files.
        options: budget and strategy.
        ledger: of the process.
        open_reader: makes the reader of the model's files once the plan is known.
        rates: the weights with the time of each, and the rates of drive and processor; asked once
            the weights are known.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        options: Options,
        ledger: Ledger,
        open_reader: Callable[[bool], Reader],
        rates: Callable[[Sequence[Weight]], tuple[list[Weight], Rates]],
    ) -> None:
        self.engine: Engine | None = None
        self.storage: Residency | None = None
        self.plan: Plan | None = None
        self._catalogue = catalogue
        self._ledger = ledger
        self._open_reader = open_reader
        self._rates = rates
        self._elsewhere = options.elsewhere or Elsewhere(Split(1), {})
        self._device: Device = device()
        self._loading: Loading | None = None
        self._account = Account(ledger, options, forked=self._device.forked)
        self._options = self._account.options
        self.owner = self._account.owner

    def compute_with(self, runner: Runner | None) -> None:
        """Have `runner` compute this model's graphs, None: its engine."""
        assert self._loading is not None
        assert self.engine is not None
        self._device.own(self._loading, runner or self.engine)

    def change_budget(self, nbytes: int, share: Share | None = None) -> None:
        """Let the process use `nbytes` from the next pass on; what is too much goes back at once.

        Args:
            share: of a model beside this one, which takes its part first.

        Raises:
            BudgetError: they do not hold the smallest window; everything is as before.
        """
        assert self.engine is not None
        assert self.storage is not None
        self._account.change(nbytes, self.engine, self.storage, share)

    def memory_use(self) -> dict[str, int]:
        """Bytes of this model alone: locked, window, kv, compute, overhead."""
        assert self.engine is not None
        plan = self.engine.storage.plan
        window = plan.window + plan.expert_window
        buffers = self._device.buffers(self.owner).values()
        return {
            "locked": plan.held_bytes - window,
            "window": window,
            "kv": sum(nbytes for nbytes, is_compute in buffers if not is_compute),
            "compute": sum(nbytes for nbytes, is_compute in buffers if is_compute),
            "overhead": self._account.overhead,
        }

    def close(self) -> None:
        """Give the accounts back; the contexts and the model must be freed before."""
        self._account.close()
        if self.engine is not None:
            self._device.disown(self.engine)
            self.engine.close()

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """While entered, models and contexts that this thread creates are this opening's."""
        import llama_cpp.llama_cpp as binding

        ours = {"llama_model_load_from_file": self.load, "llama_init_from_model": self.create}
        working = self._device.working_for(self.owner)
        with replaced(binding, ours), beside_others(self._ledger), working:
            yield

    def load(self, load: Callable[..., Any], path: bytes, params: Any) -> Any:
        """What `load` makes of these parameters, with the weights left where they are.

        Raises:
            ModelFileError, RequestError: llama.cpp does not load it; it has too many files.
        """
        import llama_cpp.llama_cpp as binding

        require_descriptors(len(self._catalogue.paths))
        listed = self._elsewhere.set(params, self._device.address, binding.llama_max_devices())
        params.n_gpu_layers = _ALL_LAYERS
        params.split_mode = 1  # LLAMA_SPLIT_MODE_LAYER
        params.load_mode = 0  # LLAMA_LOAD_MODE_NONE
        params.lazy_mode = 0
        params.use_extra_bufts = False
        params.no_host = False
        with self._device.loading() as loading:
            model = self._attempt(lambda: load(path, params), binding.llama_model_free)
        del listed  # llama.cpp has copied what it needs
        if model is None:
            said = (
                f"{os.fsdecode(path)}: llama.cpp does not load this model "
                f"(architecture {self._catalogue.architecture}); -v (verbose=True) says why"
            )
            raise self._elsewhere.explain(ModelFileError(said))
        self._loading = loading
        return model

    def _attempt(self, call: Callable[[], Any], undo: Callable[[Any], object]) -> Any:
        return self._device.attempt(call, self._catalogue.paths[0], undo)

    # -- planning -----------------------------------------------------------------------------

    def create(self, create: Callable[..., Any], model: Any, params: Any) -> Any:
        """What `create` makes of these parameters; the first context decides the plan.

        Raises:
            BudgetError: the budget is too small, with the arithmetic.
        """
        import llama_cpp.llama_cpp as binding

        if self._loading is None or not self._loading.weights:
            return create(model, params)
        if self._options.flash_attention_auto:
            params.flash_attn_type = -1  # LLAMA_FLASH_ATTN_TYPE_AUTO
        try:
            if self.engine is None:
                self._open_engine(binding, create, model, params)
            context = self._attempt(lambda: create(model, params), binding.llama_free)
            self._elsewhere.check()
        except EngineError as error:
            raise self._elsewhere.explain(error) from error
        return context

    def settle(self, context: Any) -> None:
        """Wait until every device is done with what was decoded; WorkerError: one was lost."""
        import llama_cpp.llama_cpp as binding

        if self._elsewhere.split.away_bytes and self.engine is not None:
            binding.llama_synchronize(context)
            self._elsewhere.check()
            self.engine.settle()

    def _open_engine(
        self, binding: Any, create: Callable[..., Any], model: Any, params: Any
    ) -> None:
        assert self._loading is not None
        base = self._account.base()
        trials = Trials(
            lambda trial: self._attempt(lambda: create(model, trial), binding.llama_free),
            binding.llama_free,
            params,
            self._loading,
            self._catalogue,
            listening_packer() if self._options.kernels is Kernels.PACKED else None,
            self._options.unread,
        )
        trials.run(params.n_ctx, params.n_ubatch)

        outputs = self._outputs(binding, model, int(params.n_batch))
        weights, held = trials.weights()
        held = as_packed(held, self._options.packed, self._catalogue.paths)
        request = self._options.request(params.n_ctx, params.n_ubatch)
        timed, rates = self._rates(weights)

        def costs_of(outputs: Outputs) -> CostsOf:
            return lambda ctx, ubatch: trials.costs(ctx, ubatch, base, outputs)

        if self._options.rows:
            plain = costs_of(replace(outputs, rows=0))
            request = with_steady_batch(timed, request, plain, rates, self._options.beside)
        self.plan = plan = planner.plan(timed, request, costs_of(outputs), rates)
        params.n_ctx, params.n_ubatch = plan.ctx, plan.ubatch
        self._carry_out(plan, held, treats=fills_processors(params.n_threads))

    def _outputs(self, binding: Any, model: Any, batch: int) -> Outputs:
        return Outputs(
            vocabulary=int(binding.llama_vocab_n_tokens(binding.llama_model_get_vocab(model))),
            width=int(binding.llama_model_n_embd(model)),
            batch=batch,
            encodes=bool(binding.llama_model_has_encoder(model)),
            logits_all=self._options.logits_all,
            rows=self._options.rows,
        )

    def _carry_out(self, plan: Plan, held: list[Held], *, treats: bool) -> None:
        assert self._loading is not None
        self._account.hold(plan.costs.overhead)
        interrupt = Interrupt()
        self.storage = Residency(
            held,
            plan,
            self._open_reader(plan.resident),
            Waiting(interrupt.check, treats=treats),
            pinned=self._options.pins(plan.held_bytes),
        )
        self.engine = Engine(self.storage, self._ledger, interrupt)
        self._device.own(self._loading, self.engine)
